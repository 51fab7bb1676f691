"""What each stage makes of its inputs, and what that costs. Files are known by what the commands before would write."""

import fnmatch
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from reasonrl import jsonl
from reasonrl.errors import ReasonRLError, UsageError
from reasonrl.planning import shapes
from reasonrl.planning.devices import Device
from reasonrl.planning.shapes import Shape

# Problems of each split; and, by family of model, mean tokens of a prompt and of a reference with its EOS, on the test
# split for prompts (benchmarks/plan_check.py --lengths measures them). Llama's tokenizer is taken to be like SmolLM2's.
PROBLEMS = {"mini": (10_000, 1_000), "gsm8k": (7_473, 1_319), "svamp": (3_138, 1_000)}
LENGTHS = {
    ("mini", "tiny"): (37.8, 29.7),
    ("gsm8k", "tiny"): (109.3, 120.2),
    ("svamp", "tiny"): (70.1, 10.7),
    ("mini", "smollm2"): (45.5, 49.4),
    ("gsm8k", "smollm2"): (67.7, 96.0),
    ("svamp", "smollm2"): (47.6, 18.1),
}
# The trainers' presets: epochs, examples a step (of `ppo`: rollouts, rollouts an update, a question, epochs).
PRESETS = {
    "sft": {"paper": (4, 128), "tiny": (2, 32)},
    "rcrl": {"paper": (4, 128), "tiny": (2, 32)},
    "orm": {"paper": (2, 64), "tiny": (2, 64)},
    "ppo": {"paper": (100_000, 512, 4, 4), "tiny": (24_576, 512, 4, 2)},
}


@dataclass(frozen=True)
class Assumptions:
    """What only a run can tell, and a plan must assume: `plan --assume NAME=VALUE`."""

    tokens: float = 0  # a completion of a trained policy; 0: as long as a reference
    start_tokens: float = 0  # a completion of a model that no command has trained; 0: as above
    keep: float = 0.3  # fraction of a trained policy's samples that a filter with a threshold keeps
    start_keep: float = 0.1  # the same, of any other model's samples
    again: float = 0.5  # of these, the fraction that an earlier file of the same filter has already
    prefixes: float = 2.5  # rcrl: different prefixes of a solution that are completed
    learnt: float = 0.7  # rcrl: fraction of the solutions that balancing leaves
    exemplars: float = 0  # worked examples in a prompt that is a file
    padding: float = 1.4  # tokens that training passes through, for each that is not padding

    @classmethod
    def parse(cls, pairs: list[str]) -> "Assumptions":
        known = [one.name for one in fields(cls)]
        found = {}
        for pair in pairs:
            name, _, text = pair.partition("=")
            try:
                found[name] = float(text)
            except ValueError:
                found[name] = math.nan
            if name not in known or not found[name] >= 0:
                raise UsageError(f"--assume {pair}: want NAME=NUMBER with one of {', '.join(known)}")
        return cls(**found)


@dataclass(frozen=True)
class Made:
    """What stands in a file: `count` records of so many questions; prompt and tokens are means, tokens 0 where nothing
    was drawn."""

    task: str
    count: float
    questions: float
    prompt: float
    tokens: float
    reference: float
    earlier: bool = False  # what a filter kept
    trained: bool = False  # drawn from a policy that a command has trained


@dataclass
class Cost:
    """Of one command. generated: tokens drawn; read: through forward passes only; learnt: forward and backward, padding
    included, once for each epoch. memory in bytes."""

    records: float = 0
    samples: float = 0
    generated: float = 0
    read: float = 0
    learnt: float = 0
    memory: float = 0.2e9
    seconds: float = 0


@dataclass
class World:
    """What the commands so far have made."""

    device: Device
    assume: Assumptions
    files: dict[str, Made] = field(default_factory=dict)
    checkpoints: dict[str, Shape] = field(default_factory=dict)
    done: dict[str, str] = field(default_factory=dict)  # output → the command that makes it

    def shape(self, name: str) -> Shape:
        """Raises UsageError for a model that nothing makes and nobody knows."""
        name = name.rstrip("/")
        return self.checkpoints[name] if name in self.checkpoints else shapes.of_model(name)

    def lengths(self, task: str, shape: Shape) -> tuple[float, float]:
        family = "tiny" if shape.family.startswith("tiny") else "smollm2"
        return LENGTHS.get((task, family), LENGTHS["gsm8k", family])

    def drawn(self, task: str, shape: Shape, most: int) -> float:
        """Mean tokens of a completion."""
        said = self.assume.tokens if shape.trained else self.assume.start_tokens
        return min(most, said or self.lengths(task, shape)[1])

    def problems(self, params: Mapping[str, Any], shape: Shape, files: tuple[str, ...] = ()) -> Made:
        if files:
            return self.read(files, shape, params.get("limit"))
        task = params.get("task") or "mini"
        if task not in PROBLEMS:
            return self.read((task,), shape, params.get("limit"))
        count = PROBLEMS[task][params["split"] == "test"]
        count = min(count, params.get("limit") or (count if params.get("task") else 16))
        if shard := params.get("shard"):
            count = -(-count // int(shard.partition("/")[2]))
        prompt, reference = self.lengths(task, shape)
        shown = params.get("shots") or (self.assume.exemplars if "." in str(params.get("prompt") or "") else 0)
        return Made(task, count, count, prompt + shown * (prompt + reference), 0, reference)

    def read(self, files: tuple[str, ...], shape: Shape, limit: int | None = None) -> Made:
        """The records of several files together. Raises UsageError for one that no command makes and nobody has."""
        found = []
        # What a shell would not find yet, it leaves as a pattern.
        matching = lambda name: fnmatch.filter(self.files, name) if "*" in name else [name]
        for name in (one for asked in files for one in matching(asked) or [asked]):
            if name not in self.files:
                if not os.path.isfile(name):
                    raise UsageError(f"{name}: no earlier command makes it, and it is not there")
                self.files[name] = self._on_disk(name, shape)
            found.append(self.files[name])
        count = sum(one.count for one in found) or 1
        mean = lambda name: sum(getattr(one, name) * one.count for one in found) / count
        questions = max((one.questions for one in found), default=0)
        first, count = found[0], min(count, limit or count)
        lengths = (mean("prompt"), mean("tokens"), mean("reference"))
        return Made(first.task, count, questions, *lengths, first.earlier, first.trained)

    def _on_disk(self, name: str, shape: Shape) -> Made:
        count, drawn, task = 0, False, "gsm8k"

        def visit(record: dict[str, Any], _: bytes) -> None:
            nonlocal count, drawn, task
            if not count:
                drawn, task = "completion" in record, str(record.get("id", "")).partition("/")[0]
            count += 1

        jsonl.each([jsonl.Reader(name)], visit)
        prompt, reference = self.lengths(task, shape)
        return Made(task, count, count, prompt, reference if drawn else 0, reference)


def cost_of(stage: str, params: Mapping[str, Any], command: str, world: World) -> Cost:
    """What a command costs in this world, which then holds what it makes. A command that was there before is done."""
    if stage not in STAGES:
        raise ReasonRLError(f"nothing is known of what {stage} costs")
    output = str(params.get("output") or params.get("save_data") or "-").rstrip("/")
    if output != "-" and output in world.done:
        if world.done[output] != command:
            raise UsageError(f"{output}: another command makes it: {world.done[output]}")
        if params.get("resume"):
            return Cost(seconds=0)
    cost = STAGES[stage](params, world)
    if output != "-":
        world.done[output] = command
    return cost


def _data(params: Mapping[str, Any], world: World) -> Cost:
    made = world.problems(params, shapes.of_model("tiny"))
    world.files[params["output"]] = made
    return Cost(made.count, seconds=world.device.light)


def _sample(params: Mapping[str, Any], world: World) -> Cost:
    shape, device, k = world.shape(params["model"]), world.device, params["k"]
    asked = world.problems(params, shape, params.get("problems") or ())
    tokens = world.drawn(asked.task, shape, params["max_tokens"])
    count = asked.count * k
    world.files[params["output"]] = replace(asked, count=count, tokens=tokens, trained=shape.trained)
    vllm = device.is_gpu and str(params["backend"]) != "hf"
    seconds = device.start(shape, vllm) + device.read(shape, asked.count * asked.prompt)
    seconds += device.generate(shape, int(count), asked.prompt, tokens, params["temperature"], vllm)
    memory = device.sampling_memory(shape, int(count), asked.prompt, tokens)
    return Cost(count, count, count * tokens, asked.count * asked.prompt, 0, memory, seconds)


def _score(params: Mapping[str, Any], world: World) -> Cost:
    device = world.device
    shape = world.shape(params["orm"]) if _asks_orm(params) else None
    made = world.read(params["samples"], shape or shapes.of_model("tiny"))
    world.files[params["output"]] = made
    if shape is None:
        return Cost(made.count, seconds=device.light + made.count * PER_RECORD)
    read = made.count * (made.prompt + made.tokens)
    seconds = device.start(shape) + device.read(shape, read) + made.count * PER_RECORD
    return Cost(made.count, read=read, memory=device.itemsize * shape.parameters + 1e9, seconds=seconds)


PER_RECORD = 3e-5  # seconds to read, judge and write a record with its token ids
TRAINER = 1.5  # seconds to set up and save, beyond the start of a stage that only loads a model
SORTED = 1.13  # padding where rollouts of similar length share a forward pass, as in PPO


def _asks_orm(params: Mapping[str, Any]) -> bool:
    return any(one.rpartition("=")[2] == "orm" for one in params["reward"] or ())


def _filter(params: Mapping[str, Any], world: World) -> Cost:
    found = [(name, world.read((name,), shapes.of_model("tiny"))) for name in params["samples"]]
    earlier = [made.count for name, made in found if world.files[name].earlier]
    fresh = sum(made.count for name, made in found if not world.files[name].earlier)
    keep = world.assume.keep if found[0][1].trained else world.assume.start_keep
    kept = fresh * (keep if params["min_reward"] is not None else 1)
    kept = kept * (1 - world.assume.again if earlier else 1) + sum(earlier)
    if params["per_question"]:
        kept = min(kept, params["per_question"] * found[0][1].questions)
    world.files[params["output"]] = replace(found[0][1], count=kept, earlier=True)
    return Cost(kept, seconds=world.device.light + (fresh + sum(earlier)) * PER_RECORD / 2)


def _sft(params: Mapping[str, Any], world: World) -> Cost:
    shape = world.shape(params["model"])
    rows = [world.read((name,), shape, params["limit"]) for name in params["records"]]
    examples = sum(row.count for row in rows) or 1
    tokens = sum(row.count * (row.prompt + (row.tokens or row.reference)) for row in rows)
    return _trains("sft", params, world, params["model"], examples, tokens / examples)


def _orm(params: Mapping[str, Any], world: World) -> Cost:
    shape = world.shape(params["model"])
    rows = world.read(params["scored"], shape, params["limit"])
    each, held = rows.prompt + rows.tokens, params["held_out"]
    cost = _trains("orm", params, world, params["model"], rows.count * (1 - held), each)
    cost.read = rows.count * held * each
    cost.seconds += world.device.read(shape, cost.read)
    return cost


def _trains(stage: str, params: Mapping[str, Any], world: World, model: str, examples: float, each: float) -> Cost:
    """Supervised training of `model` on examples of `each` tokens; the checkpoint is there from now on."""
    shape, device = world.shape(model), world.device
    lora, recompute = params["lora_rank"], params["gradient_checkpointing"]
    epochs, batch = _defaults(stage, params, model, world)
    epochs = epochs if params["epochs"] is None else params["epochs"]
    padded = each * world.assume.padding
    step = int((params["batch_size"] or batch) * padded) + 1
    microbatch = params["batch_tokens"] or min(1 << 14 if device.is_gpu else 1 << 13, step)
    learnt = examples * epochs * padded
    work = device.learn(shape, learnt, microbatch, bool(lora), recompute, stage == "orm")
    seconds = TRAINER + device.start(shape) + work
    world.checkpoints[params["output"].rstrip("/")] = replace(shape, trained=True)
    memory = device.training_memory(shape, lora, microbatch, recompute)
    return Cost(examples, learnt=learnt, memory=memory, seconds=seconds)


def _ppo(params: Mapping[str, Any], world: World) -> Cost:
    shape, device, lora = world.shape(params["model"]), world.device, params["lora_rank"]
    asked = world.problems(params, shape, params.get("problems") or ())
    samples, batch, _, epochs = (
        params[name] or default
        for name, default in zip(
            ("samples", "batch_size", "k", "epochs"), _defaults("ppo", params, params["model"], world), strict=True
        )
    )
    updates = max(1, round(samples / batch))
    count = updates * batch
    tokens = world.drawn(asked.task, shape, params["max_tokens"])
    each = asked.prompt + tokens
    read, learnt = 2 * count * each, count * each * epochs * SORTED
    microbatch = params["batch_tokens"] or (1 << 15 if device.is_gpu else 1 << 12)
    if device.is_gpu:
        seconds = updates * device.generate(shape, batch, asked.prompt, tokens, params["temperature"], vllm=False)
        seconds += device.read(shape, read)
        seconds += device.learn(shape, learnt, microbatch, bool(lora), params["gradient_checkpointing"])
    else:
        rates = device.rates(shape)
        seconds = count * tokens * (1 / rates.rollout + 1 / rates.score + epochs / rates.update)
    if _asks_orm(params):
        read += count * each
        seconds += device.read(world.shape(params["orm"]), count * each)
    memory = device.training_memory(shape, lora, microbatch, params["gradient_checkpointing"])
    memory += 0 if lora else 4 * shape.parameters  # the reference
    output = params["output"].rstrip("/")
    kept = range(params["keep_every"], updates, params["keep_every"]) if params["keep_every"] else ()
    for name in (output, *(f"{output}-{update}" for update in kept)):
        world.checkpoints[name] = replace(shape, trained=True)
    return Cost(count, count, count * tokens, read, learnt, memory, TRAINER + device.start(shape) + seconds)


def _rcrl(params: Mapping[str, Any], world: World) -> Cost:
    """Solutions, then k completions of each different prefix, half a solution long on average; then `sft` on what
    balancing leaves of the solutions. Either part alone with --save-data and without -o, or with --data."""
    device, cost = world.device, Cost()
    if params["data"]:
        labelled = world.read(params["data"], world.shape(params["base"]))
    else:
        policy = world.shape(params["model"])
        asked = world.problems(params, policy, params["problems"] or ())
        tokens = world.drawn(asked.task, policy, params["max_tokens"])
        solutions = asked.count * params["solutions"]
        prefixes = solutions * world.assume.prefixes
        cost.samples = solutions + prefixes * params["k"]
        cost.generated = solutions * tokens + prefixes * params["k"] * tokens / 2
        cost.read = asked.count * asked.prompt + prefixes * (asked.prompt + tokens / 2)
        cost.seconds = device.start(policy) + device.read(policy, cost.read)
        length = cost.generated / cost.samples
        cost.seconds += device.generate(policy, int(cost.samples), asked.prompt, length, 1.0, vllm=False)
        cost.memory = device.sampling_memory(policy, int(cost.samples), asked.prompt, tokens)
        labelled = replace(asked, count=solutions, tokens=tokens)
        if params["save_data"]:
            world.files[params["save_data"]] = labelled
    if not params["output"]:
        cost.records = labelled.count
        return cost
    learnt = labelled.count * world.assume.learnt
    each = labelled.prompt + (1 + LABELS) * labelled.tokens
    trained = _trains("rcrl", params, world, params["base"], learnt, each)
    cost.records, cost.learnt = learnt, trained.learnt
    cost.memory = max(cost.memory, trained.memory)
    cost.seconds += trained.seconds
    return cost


LABELS = 0.5  # tokens of labels, for each token of a solution: `[GOOD]` takes several, before each line


def _defaults(stage: str, params: Mapping[str, Any], model: str, world: World) -> tuple:
    asked = str(params["preset"])
    if asked == "auto":
        asked = "tiny" if world.shape(model).family.startswith("tiny") else "paper"
    return PRESETS[stage][asked]


def _eval(params: Mapping[str, Any], world: World) -> Cost:
    made = world.read(params["scored"], shapes.of_model("tiny"))
    world.files[params["output"]] = Made(made.task, 1, 1, 0, 0, 0)
    return Cost(1, seconds=2 * world.device.light + made.count * PER_RECORD)


def _report(params: Mapping[str, Any], world: World) -> Cost:
    made = world.read(params["metrics"], shapes.of_model("tiny"))
    return Cost(made.count, seconds=world.device.plots)


STAGES: dict[str, Callable[[Mapping[str, Any], World], Cost]] = {
    "data": _data, "sample": _sample, "score": _score, "filter": _filter, "sft": _sft, "orm": _orm, "ppo": _ppo,
    "rcrl": _rcrl, "eval": _eval, "report": _report,
}  # fmt: skip
