"""An outcome reward model against what surface features alone can tell, on the same held-out questions.

    python benchmarks/orm_baseline.py solutions.jsonl --orm runs/orm-gsm8k/orm --held-out 0.3333 --seed 0

The input holds solutions with `id`, `question`, `completion` and `correct`; --orm is the checkpoint that was trained on
it with the same --held-out and --seed, whose held_out.jsonl says what it gives those that it did not see. The baseline
is a logistic regression on features of the text (length, number of steps, arithmetic consistency, …), trained on the
questions that `reasonrl orm` trains on. It sees no word of the text.
"""

import argparse
import math
import re
from pathlib import Path

import numpy as np

from reasonrl.evaluation import calibration
from reasonrl.evaluation.intervals import RESAMPLES
from reasonrl.grading import answers
from reasonrl.grading.steps import steps
from reasonrl.io import jsonl
from reasonrl.io.records import Record
from reasonrl.rewards import dense
from reasonrl.training.orm.examples import is_held_out
from reasonrl.training.orm.trainer import STEP_VALUES

EQUATION = re.compile(r"([-+]?[0-9][0-9.,]*(?:\s*[-+*/x×÷]\s*\$?[0-9][0-9.,]*)+)\s*=\s*\$?(-?[0-9][0-9.,]*)")
NUMBER = re.compile(r"[0-9][0-9,]*(?:\.[0-9]+)?")
NAMES = (
    "characters", "steps", "characters a step", "equations", "wrong equations", "share of equations that hold",
    "steps without a result", "numbers from nowhere", "numbers of the question used", "answer is the last result",
    "answer is whole", "size of the answer", "answer stands in the question", "no answer", "characters of the question",
)  # fmt: skip


def holds(left: str, right: str) -> bool:
    """Whether an equation's two sides are equal to within a hundredth."""
    term = left.replace(",", "").replace("$", "").replace("x", "*").replace("×", "*").replace("÷", "/")
    numbers = [float(number.rstrip(".")) for number in re.findall(r"[0-9][0-9.]*", term)]
    operations = re.findall(r"[-+*/]", term.lstrip("-+"))
    sums, product = [], numbers[0]
    for operation, number in zip(operations, numbers[1:], strict=False):
        if operation in "*/":
            product = product * number if operation == "*" else product / number if number else math.inf
        else:
            sums.append(product)
            product = number if operation == "+" else -number
    return abs(sum(sums) + product - float(right.replace(",", "").rstrip("."))) <= 0.01


def features(record: Record) -> list[float]:
    """One number for each of NAMES."""
    text, lines = record["completion"], steps(record["completion"])
    equations = EQUATION.findall(text)
    right = sum(holds(*equation) for equation in equations)
    results = [dense.results(line) for line in lines]
    given = {answers.canonical(number) for number in NUMBER.findall(record["question"])}
    known, nowhere, used = set(given), 0, set()
    for line, values in zip(lines, results, strict=True):
        numbers = {answers.canonical(number) for number in NUMBER.findall(line)}
        nowhere += len(numbers - values - known)
        used |= numbers & given
        known |= numbers | values
    answer = answers.extract(text, flexible=True)
    last = next((values for values in reversed(results) if values), set())
    size = abs(float(eval(answer))) if answer and len(answer) < 20 else 0.0  # canonical: digits, point, sign, slash
    return [
        math.log1p(len(text)), len(lines), len(text) / max(1, len(lines)) / 50, len(equations),
        len(equations) - right, right / max(1, len(equations)), sum(not values for values in results), nowhere,
        len(used) / max(1, len(given)), answer in last, answer is not None and "." not in answer and "/" not in answer,
        math.log1p(size), answer in given, answer is None, math.log1p(len(record["question"])),
    ]  # fmt: skip


def logistic(x: np.ndarray, y: np.ndarray, penalty: float = 1.0) -> np.ndarray:
    """Weights (the last is the intercept) of a ridge-penalised logistic regression, by Newton's method."""
    x = np.c_[x, np.ones(len(x))]
    ridge = penalty * np.eye(x.shape[1])
    ridge[-1, -1] = 1e-6
    weights = np.zeros(x.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ weights))
        weights -= np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + ridge, x.T @ (p - y) + ridge @ weights)
    return weights


def difference(one: np.ndarray, other: np.ndarray, label: np.ndarray, question: np.ndarray) -> tuple[float, float]:
    """The 95% interval of AUC(one) − AUC(other), both on the same bootstrap resamples of the questions."""
    _, group = np.unique(question, return_inverse=True)
    n, dice = int(group.max()) + 1, np.random.default_rng(0)
    gaps = []
    for _ in range(RESAMPLES // 4):
        weight = dice.multinomial(n, np.full(n, 1 / n))[group].astype(float)
        gaps.append(calibration.auc(one, label, weight) - calibration.auc(other, label, weight))
    low, high = np.nanquantile(gaps, (0.025, 0.975))
    return float(low), float(high)


def read(path: str | Path) -> list[Record]:
    records: list[Record] = []
    jsonl.each([jsonl.Reader(str(path))], lambda record, _: records.append(record))
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("solutions", help="JSONL")
    parser.add_argument("--orm", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--held-out", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", action="store_true", help="print the baseline's weights too")
    options = parser.parse_args()

    records = read(options.solutions)
    x = np.array([features(record) for record in records], dtype=float)
    y = np.array([float(record["correct"]) for record in records])
    question = np.array([record["id"] for record in records])
    held = np.array([is_held_out(record["id"], options.held_out, options.seed) for record in records])
    x = (x - x[~held].mean(0)) / np.maximum(1e-9, x[~held].std(0))
    weights = logistic(x[~held], y[~held])
    label, question = y[held], question[held]
    scores = {"surface features": x[held] @ weights[:-1]}
    if options.orm:
        scored = read(options.orm / STEP_VALUES)
        if [(one["id"], one["correct"]) for one in scored] != list(zip(question, label == 1, strict=True)):
            raise SystemExit(
                f"{options.orm / STEP_VALUES} is about other solutions: other --held-out, --seed or --max-length?"
            )
        scores["ORM"] = np.array([one["step_values"][-1] for one in scored])

    print(f"{len(label)} solutions of {len(set(question))} held-out questions, {label.mean():.1%} right\n")
    print("| | AUC | 95% interval | AUC within a question |\n| --- | --- | --- | --- |")
    for name, score in scores.items():
        whole = calibration.auc_interval(score, label, question)
        within = calibration.auc_within(score, label, question)
        print(f"| {name} | {whole.value:.3f} | [{whole.low:.3f}, {whole.high:.3f}] | {within:.3f} |")
    if "ORM" in scores:
        low, high = difference(scores["ORM"], scores["surface features"], label, question)
        print(f"\nORM − surface features: [{low:+.3f}, {high:+.3f}], 95% bootstrap over questions")
    if options.weights:
        for name, weight in sorted(zip(NAMES, weights[:-1], strict=True), key=lambda pair: -abs(pair[1])):
            print(f"{weight:+.2f}  {name}")


if __name__ == "__main__":
    main()
