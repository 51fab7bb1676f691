"""Completions of a return-conditioned policy, from any engine: a step at a time, the label put before each.

The engine draws up to a newline; where that ends a step, the next turn's prompt continues after a label. Labels are in
what the policy reads only: ids, text and log-probabilities of a completion are those of the steps. Should the policy
draw a label itself, what it drew is cut before it and drawn again, which is drawing with labels ruled out.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from reasonrl.grading.steps import step_starts
from reasonrl.models.labels import Condition, interleave
from reasonrl.models.language_model import ModelTokenizer
from reasonrl.sampling.ordered import batched
from reasonrl.sampling.types import Completion, Engine, Request, Sampling, cut_at_stop

ROWS = 4096  # completions under way at a time: each turn waits for the slowest


@dataclass
class _Line:
    """One completion on its way."""

    request: Request
    k: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] | None = field(default_factory=list)
    finish: str = ""


class Conditional:
    """`engine`, with a label before each step. The draws of a sample depend on (seed, id, k, turn, position within the
    turn): in every turn but the first, each completion is a request of its own."""

    def __init__(self, engine: Engine, policy: ModelTokenizer, condition: Condition):
        self.engine, self.policy = engine, policy
        self.label = policy.encode_completion(condition.text)
        labels = condition.labels
        self.drawn_labels = [policy.encode_completion(text) for text in (labels.good, labels.bad, *labels.names)]

    def sample(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[list[Completion]]:
        """See `Engine.sample`. Raises RecordError for a prompt that leaves no room for a completion."""
        for part in batched(requests, max(1, ROWS // sampling.k)):
            lines = [[_Line(request, k) for k in range(sampling.k)] for request in part]
            self._draw(lines, sampling)
            for samples in lines:
                yield [self._completion(line, sampling) for line in samples]

    def close(self) -> None:
        self.engine.close()

    def _draw(self, lines: list[list[_Line]], sampling: Sampling) -> None:
        """All turns of the requests' completions."""
        by_line = replace(sampling, stop=(*sampling.stop, "\n"))
        first = self.engine.sample((self._request(samples[0], samples[0].request.id) for samples in lines), by_line)
        for samples, completions in zip(lines, first, strict=True):
            for line, completion in zip(samples, completions, strict=True):
                self._add(line, completion, sampling)
        turn, everyone = 0, [line for samples in lines for line in samples]
        while live := [line for line in everyone if not line.finish]:
            turn += 1
            remaining = sampling.max_tokens - min(len(line.ids) for line in live)
            requests = (self._request(line, f"{line.request.id}#{line.k}.{turn}") for line in live)
            turns = self.engine.sample(requests, replace(by_line, k=1, max_tokens=remaining))
            for line, (completion,) in zip(live, turns, strict=True):
                self._add(line, completion, sampling)
                if turn > 2 * sampling.max_tokens and not line.finish:  # a policy that draws labels and little else
                    line.finish = "length"

    def _request(self, line: _Line, name: str) -> Request:
        return Request(name, line.request.prompt_ids + self._labelled(line.ids))

    def _labelled(self, ids: list[int]) -> list[int]:
        starts = step_starts(self.policy.pieces(ids))
        return interleave(ids, starts, [self.label] * len(starts))[0]

    def _add(self, line: _Line, completion: Completion, sampling: Sampling) -> None:
        """Appends what a turn drew, and notes the end if it is one."""
        ids, logprobs = list(completion.ids), completion.logprobs
        ended_by = (*sampling.stop, "\n")
        if completion.finish == "stop" and not any(text in self.policy.decode([ids])[0] for text in ended_by):
            ids, logprobs = ids + self.policy.encode_completion("\n"), None  # a server that kept it to itself
        before_label = self._before_label(ids)
        drew_label = before_label < len(ids)
        room = sampling.max_tokens - len(line.ids)
        cut = min(before_label, room)
        line.ids += ids[:cut]
        line.logprobs = None if line.logprobs is None or logprobs is None else line.logprobs + list(logprobs[:cut])
        if sampling.stop and self._trim(line, sampling.stop):
            line.finish = "stop"
        elif cut == len(ids) and completion.finish == "eos":
            line.finish = "eos"
        elif cut == room or self._full(line) or (drew_label and sampling.temperature == 0):
            line.finish = "length"  # a greedy policy that draws a label would draw it again

    def _before_label(self, ids: list[int]) -> int:
        """How many of the ids stand before the first label among them."""
        for place, token in enumerate(ids):
            for label in self.drawn_labels:
                if token == label[0] and ids[place : place + len(label)] == label:
                    return place
        return len(ids)

    def _trim(self, line: _Line, stop: tuple[str, ...]) -> bool:
        """Whether a stop string is there, which may have begun a turn ago; ids after its end are dropped."""
        has_stop = lambda ids: any(text in self.policy.decode([ids])[0] for text in stop)
        if not has_stop(line.ids):
            return False
        while has_stop(line.ids[:-1]):
            line.ids.pop()
            if line.logprobs:
                line.logprobs.pop()
        return True

    def _full(self, line: _Line) -> bool:
        """Whether the context has no room for another token."""
        return len(line.request.prompt_ids) + len(self._labelled(line.ids)) >= self.policy.context

    def _completion(self, line: _Line, sampling: Sampling) -> Completion:
        text = cut_at_stop(self.policy.decode([line.ids])[0], sampling.stop)
        return Completion(line.ids, text, line.logprobs, line.finish)
