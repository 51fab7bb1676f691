"""Monte Carlo values of the steps of a policy's own solutions, and what it costs to estimate them.

    v(step i) = mean return of K completions, drawn by the policy, of the prefix that ends with step i
    v(last step) = the return of the solution itself, which is known and needs no draw

Within a question, equal tokens are one prefix. A prefix that several solutions share is completed once, and its K
completions share one prefill. A completion that runs out of tokens returns 0, as in PPO.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from reasonrl.grading.steps import steps
from reasonrl.io.records import Record
from reasonrl.models.labels import StepEncoder
from reasonrl.models.language_model import LanguageModel
from reasonrl.prompts import PromptForm
from reasonrl.rewards.scorer import RewardScorer, Score
from reasonrl.sampling.ordered import batched
from reasonrl.sampling.types import Completion, Engine, Request, Sampling, cut_at_stop, to_record
from reasonrl.settings.limits import LABELLED_TOGETHER

COST = ("samples", "tokens", "boundaries", "prefixes", "prefill_tokens", "naive_prefill_tokens")
"""What a record's field `cost` counts; docs/rcrl.md has it as a formula."""

Prefix = tuple[int, ...]


@dataclass(frozen=True)
class _Question:
    """A problem on its way. prefixes: of each solution the steps' ends but for the last."""

    problem: Record
    request: Request
    records: list[Record]
    prefixes: list[list[Prefix]]

    def distinct(self) -> list[Prefix]:
        """The prefixes of all solutions, each once, in the order in which they come."""
        return list(dict.fromkeys(prefix for of_solution in self.prefixes for prefix in of_solution))


Asked = list[tuple[_Question, Prefix]]
"""Prefixes to be completed, with their questions."""


class Labeller:
    """Problems → records of the policy's solutions with the values of their steps.

    sampling: of solutions, k per problem. rollouts: K, the completions of a prefix. The draws of a completion depend on
    (seed, id, prefix, number, position).
    """

    def __init__(
        self, policy: LanguageModel, engine: Engine, scorer: RewardScorer, form: PromptForm, sampling: Sampling,
        rollouts: int,
    ):  # fmt: skip
        self.policy, self.engine, self.scorer, self.form = policy, engine, scorer, form
        self.sampling, self.rollouts = sampling, rollouts
        self.encode = StepEncoder(policy)
        self.common = {
            "temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed,
            "model": policy.name, "tokenizer": self.encode.tokenizer_hash,
        }  # fmt: skip

    def __call__(self, problems: Iterable[Record]) -> Iterator[list[Record]]:
        """The records of each problem, in the order of the problems."""
        for part in batched(problems, max(1, LABELLED_TOGETHER // self.sampling.k)):
            yield from self._label(part)

    def _label(self, problems: Sequence[Record]) -> Iterator[list[Record]]:
        questions = self._solutions(problems)
        prefixes = [(question, prefix) for question in questions for prefix in question.distinct()]
        completions = list(self.engine.sample(
            (
                Request(_name(question.request.id, prefix), question.request.prompt_ids + list(prefix))
                for question, prefix in prefixes
            ),
            replace(self.sampling, k=self.rollouts),
        ))  # fmt: skip
        returns = self._returns(prefixes, completions)
        values: dict[tuple[str, Prefix], float] = {}
        tokens: dict[tuple[str, Prefix], int] = {}
        for number, ((question, prefix), of_prefix) in enumerate(zip(prefixes, completions, strict=True)):
            first = number * self.rollouts
            values[question.request.id, prefix] = sum(returns[first : first + self.rollouts]) / self.rollouts
            tokens[question.request.id, prefix] = sum(len(completion.ids) for completion in of_prefix)
        for question in questions:
            yield self._with_values(question, values, tokens)

    def _with_values(
        self, question: _Question, values: dict[tuple[str, Prefix], float], tokens: dict[tuple[str, Prefix], int]
    ) -> list[Record]:
        """The records of a question, with `step_values`, `start_value` and `cost`."""
        returns = self._score_solutions(question.records)
        seen: set[Prefix] = set()
        for record, prefixes, earned in zip(question.records, question.prefixes, returns, strict=True):
            new = [prefix for prefix in prefixes if prefix not in seen]
            seen.update(new)
            by_step = [*(values[question.request.id, prefix] for prefix in prefixes), earned]
            record["step_values"] = {"mc": by_step if steps(record["completion"]) else []}
            record["start_value"] = {"mc": sum(returns) / len(returns)}
            record["cost"] = self._cost(record, prefixes, new, len(question.request.prompt_ids))
            record["cost"]["tokens"] += sum(tokens[question.request.id, prefix] for prefix in new)
        return question.records

    def _solutions(self, problems: Sequence[Record]) -> list[_Question]:
        """Draws solutions of the problems and finds where their steps end."""
        texts = [self.form.render(problem["question"], self.policy.tokenizer) for problem in problems]
        requests = [
            Request(problem["id"], self.policy.encode_prompt(text))
            for problem, text in zip(problems, texts, strict=True)
        ]
        solutions = self.engine.sample(requests, self.sampling)
        questions = []
        for problem, text, request, completions in zip(problems, texts, requests, solutions, strict=True):
            prompt = {"prompt": text, "shots": 0, "prompt_hash": self.form.hash}
            records = [to_record(problem, k, prompt, one, self.common) for k, one in enumerate(completions)]
            questions.append(_Question(problem, request, records, [self._prefixes(record) for record in records]))
        return questions

    def _prefixes(self, record: Record) -> list[Prefix]:
        if not steps(record["completion"]):
            return []
        solution = self.encode(record)
        return [solution.prefix(step) for step in range(solution.count - 1)]

    def _cost(self, record: Record, prefixes: list[Prefix], new: list[Prefix], prompt: int) -> dict[str, int]:
        read = lambda several: sum(prompt + len(prefix) for prefix in several)
        counts = (
            1 + self.rollouts * len(new), len(record["completion_ids"]), len(prefixes), len(new),
            (prompt if record["k"] == 0 else 0) + read(new), prompt + self.rollouts * read(prefixes),
        )  # fmt: skip
        return dict(zip(COST, counts, strict=True))

    def _returns(self, prefixes: Asked, completions: list[list[Completion]]) -> list[float]:
        """The returns of all completions of prefixes, in their order."""
        pairs = [
            (question, prefix, completion)
            for (question, prefix), of_prefix in zip(prefixes, completions, strict=True)
            for completion in of_prefix
        ]
        solutions = [[*prefix, *completion.ids] for _, prefix, completion in pairs]
        texts = self.policy.decode(solutions)
        records = [
            question.problem | {"completion": cut_at_stop(text, self.sampling.stop), "finish": completion.finish}
            for (question, _, completion), text in zip(pairs, texts, strict=True)
        ]
        # A completion may have as many tokens as a solution, its prefix included.
        in_time = [
            completion.finish != "length" and len(ids) <= self.sampling.max_tokens
            for (_, _, completion), ids in zip(pairs, solutions, strict=True)
        ]
        scores = self._grade_and_score(records)
        return [float(score.reward) * ended for score, ended in zip(scores, in_time, strict=True)]

    def _score_solutions(self, records: list[Record]) -> list[float]:
        """The returns of solutions; adds the fields of their verdicts and rewards."""
        scores = self._grade_and_score(records)
        for record, score in zip(records, scores, strict=True):
            record["rewards"] = {name: result.reward for name, result in score.results.items()}
            record["reward"] = float(score.reward)
        return [record["reward"] * (record["finish"] != "length") for record in records]

    def _grade_and_score(self, records: list[Record]) -> list[Score]:
        self.scorer.grade_all(records)
        return self.scorer(records)


def _name(question: str, prefix: Prefix) -> str:
    """The request's id, which its draws depend on: the prefix itself, whichever solution it came from."""
    return f"{question}>{hashlib.blake2b(repr(prefix).encode(), digest_size=8).hexdigest()}"


def add_costs(records: Iterable[Record], so_far: dict[str, int] | None = None) -> dict[str, int]:
    """The cost of labelled records, however many files they came in, on top of `so_far`."""
    sums = dict(so_far) if so_far else dict.fromkeys(COST, 0)
    for record in records:
        for name, count in (record.get("cost") or {}).items():
            if name in sums:
                sums[name] += count
    return sums
