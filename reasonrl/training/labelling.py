"""Monte Carlo values of the steps of a policy's own solutions, and what it costs to estimate them.

    v(step i) = mean return of K completions, drawn by the policy, of the prefix that ends with step i
    v(last step) = the return of the solution itself, which is known and needs no draw

Prefixes are told apart by their tokens, within a question. One that several solutions share is completed once, and its
K completions share one prefill. A completion that runs out of tokens returns 0, as in PPO.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from reasonrl.models.labels import StepEncoder, Steps
from reasonrl.models.policy import Policy
from reasonrl.records import Record, steps
from reasonrl.rewards.judge import Judge
from reasonrl.sampling import Completion, Engine, Request, Sampling, cut_at_stop, to_record
from reasonrl.sampling.ordered import batched
from reasonrl.tasks.prompts import PromptForm

ROWS = 512  # solutions under way at a time

COST = ("samples", "tokens", "boundaries", "prefixes", "prefill_tokens", "naive_prefill_tokens")
"""What a record's field `cost` counts; docs/rcrl.md has it as a formula."""

Prefix = tuple[int, ...]


@dataclass
class _Question:
    """A problem on its way. prefixes: the steps' ends but for the last, of each solution."""

    problem: Record
    request: Request
    records: list[Record]
    prefixes: list[list[Prefix]]

    def distinct(self) -> list[Prefix]:
        """The prefixes of all solutions, each once, in the order in which they come."""
        return list(dict.fromkeys(prefix for of_solution in self.prefixes for prefix in of_solution))


class Labeller:
    """Problems → records of the policy's solutions with the values of their steps.

    sampling: of solutions, k a problem. rollouts: K, the completions of a prefix. The draws of a completion depend on
    (seed, id, prefix, number, position).
    """

    def __init__(
        self, policy: Policy, engine: Engine, judge: Judge, form: PromptForm, sampling: Sampling, rollouts: int
    ):
        self.policy, self.engine, self.judge, self.form = policy, engine, judge, form
        self.sampling, self.rollouts = sampling, rollouts
        self.encode = StepEncoder(policy)
        self.fixed = {
            "temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed,
            "model": policy.name, "tokenizer": self.encode.tokenizer_hash,
        }  # fmt: skip

    def __call__(self, problems: Iterable[Record]) -> Iterator[list[Record]]:
        """The records of each problem, in the order of the problems."""
        for some in batched(problems, max(1, ROWS // self.sampling.k)):
            yield from self._label(some)

    def _label(self, problems: Sequence[Record]) -> Iterator[list[Record]]:
        questions = self._solutions(problems)
        wanted = [(question, prefix) for question in questions for prefix in question.distinct()]
        drawn = list(self.engine.sample(
            (Request(_name(of.request.id, prefix), of.request.prompt_ids + list(prefix)) for of, prefix in wanted),
            replace(self.sampling, k=self.rollouts),
        ))  # fmt: skip
        returns = iter(self._returns(wanted, drawn))
        values = {(of.request.id, prefix): sum(next(returns) for _ in range(self.rollouts)) / self.rollouts
                  for of, prefix in wanted}  # fmt: skip
        tokens = {(of.request.id, prefix): sum(len(one.ids) for one in rollouts)
                  for (of, prefix), rollouts in zip(wanted, drawn, strict=True)}  # fmt: skip
        for question in questions:
            own = self._own_returns(question.records)
            met: set[Prefix] = set()
            for record, prefixes, earned in zip(question.records, question.prefixes, own, strict=True):
                at = [(question.request.id, prefix) for prefix in prefixes]
                new = [prefix for prefix in prefixes if prefix not in met]
                met.update(new)
                has_steps = bool(steps(record["completion"]))
                record["step_values"] = {"mc": [*(values[place] for place in at), earned] if has_steps else []}
                record["start_value"] = {"mc": sum(own) / len(own)}
                record["cost"] = self._cost(record, prefixes, new, len(question.request.prompt_ids))
                record["cost"]["tokens"] += sum(tokens[question.request.id, prefix] for prefix in new)
            yield question.records

    def _solutions(self, problems: Sequence[Record]) -> list[_Question]:
        """Draws solutions of the problems and finds where their steps end."""
        texts = [self.form.render(problem["question"], self.policy.tokenizer) for problem in problems]
        asked = [Request(of["id"], self.policy.encode_prompt(text)) for of, text in zip(problems, texts, strict=True)]
        questions = []
        for problem, text, request, drawn in zip(
            problems, texts, asked, self.engine.sample(asked, self.sampling), strict=True
        ):
            fields = {"prompt": text, "shots": 0, "prompt_hash": self.form.hash}
            records = [to_record(problem, k, fields, one, self.fixed) for k, one in enumerate(drawn)]
            questions.append(_Question(problem, request, records, [self._ends(record) for record in records]))
        return questions

    def _ends(self, record: Record) -> list[Prefix]:
        if not steps(record["completion"]):
            return []
        found: Steps = self.encode(record)
        return [found.prefix(step) for step in range(found.count - 1)]

    def _cost(self, record: Record, prefixes: list[Prefix], new: list[Prefix], prompt: int) -> dict[str, int]:
        read = lambda of: sum(prompt + len(prefix) for prefix in of)
        counts = (
            1 + self.rollouts * len(new), len(record["completion_ids"]), len(prefixes), len(new),
            (prompt if record["k"] == 0 else 0) + read(new), prompt + self.rollouts * read(prefixes),
        )  # fmt: skip
        return dict(zip(COST, counts, strict=True))

    def _returns(self, wanted: list[tuple[_Question, Prefix]], drawn: list[list[Completion]]) -> list[float]:
        """The returns of all completions of prefixes, in their order."""
        whole = [[*prefix, *one.ids] for (_, prefix), of in zip(wanted, drawn, strict=True) for one in of]
        owners = [of.problem for (of, _), rollouts in zip(wanted, drawn, strict=True) for _ in rollouts]
        ends = [one.finish for rollouts in drawn for one in rollouts]
        texts = self.policy.decode(whole)
        judged = self.judge([
            problem | {"completion": cut_at_stop(text, self.sampling.stop), "finish": finish}
            for problem, text, finish in zip(owners, texts, ends, strict=True)
        ])  # fmt: skip
        # A completion has as many tokens as a solution, its prefix included.
        in_time = [
            end != "length" and len(ids) <= self.sampling.max_tokens for end, ids in zip(ends, whole, strict=True)
        ]
        return [one.reward * ended for one, ended in zip(judged, in_time, strict=True)]

    def _own_returns(self, records: list[Record]) -> list[float]:
        """The returns of solutions; adds the fields of their verdicts."""
        judged = self.judge(records)
        for record, verdict in zip(records, judged, strict=True):
            record |= {"rewards": verdict.rewards, "reward": verdict.reward}
        return [one.reward * (of["finish"] != "length") for one, of in zip(judged, records, strict=True)]


def _name(question: str, prefix: Prefix) -> str:
    """What chooses the draws of a prefix's completions: the prefix itself, whichever solution it came from."""
    return f"{question}>{hashlib.blake2b(repr(prefix).encode(), digest_size=8).hexdigest()}"


def add_costs(records: Iterable[Record], so_far: dict[str, int] | None = None) -> dict[str, int]:
    """The cost of labelled records, however many files they came in, on top of `so_far`."""
    sums = dict(so_far) if so_far else dict.fromkeys(COST, 0)
    for record in records:
        for name, count in (record.get("cost") or {}).items():
            if name in sums:
                sums[name] += count
    return sums
