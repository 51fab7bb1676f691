"""What each stage makes of its inputs, and what that costs. Files are known by what the commands before would write."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from reasonrl.errors import ReasonRLError, UsageError
from reasonrl.planning.devices import Device, Draw, Engine
from reasonrl.planning.shapes import Shape
from reasonrl.planning.world import LABEL, Cost, Made, World, family, lengths, padding

# The trainers' presets: epochs, examples a step (of `ppo`: rollouts, rollouts an update, a question, epochs).
PRESETS = {
    "sft": {"paper": (4, 128), "tiny": (2, 32)},
    "rcrl": {"paper": (4, 128), "tiny": (2, 32)},
    "orm": {"paper": (2, 64), "tiny": (2, 64)},
    "ppo": {"paper": (100_000, 512, 4, 4), "tiny": (24_576, 512, 4, 2)},
}


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
    made = world.problems(params)
    world.files[params["output"]] = made
    return Cost(made.count, seconds=world.device.light)


def _sample(params: Mapping[str, Any], world: World) -> Cost:
    shape, device = world.shape(params["model"]), world.device
    asked = world.problems(params, params.get("problems") or ())
    count, prompt = asked.count * params["k"], world.prompt(asked.task, shape, params)
    draw = world.draw(asked.task, shape, count, prompt, params["max_tokens"])
    world.files[params["output"]] = replace(asked, count=count, tokens=draw.tokens, trained=shape.trained)
    read = asked.count * prompt
    if shape.label:  # each step but the first is asked for by itself, and all before it is read again
        read += count * world.assume.prefixes * (prompt + (draw.tokens + _labels(shape, world)) / 2)
    engine = _engine(shape, device, vllm=device.is_gpu and str(params["backend"]) != "hf")
    seconds = device.start(shape, engine.vllm) + device.read(shape, read)
    seconds += device.generate(shape, draw, params["temperature"], engine)
    memory = engine.resident + device.batch_memory(shape, draw, engine)
    return Cost(count, count, count * draw.tokens, read, 0, memory, seconds, _no_room(draw, shape))


def _engine(shape: Shape, device: Device, vllm: bool = False) -> Engine:
    """An engine that has the device to itself but for its weights."""
    return Engine(vllm, device.itemsize, device.itemsize * shape.parameters)


def _no_room(draw: Draw, shape: Shape) -> str:
    if draw.prompt < shape.context:
        return ""
    return f"a prompt of {draw.prompt:.0f} tokens does not fit the model's context of {shape.context}"


def _score(params: Mapping[str, Any], world: World) -> Cost:
    device, made = world.device, world.read(params["samples"])
    world.files[params["output"]] = made
    if not _asks_orm(params):
        return Cost(made.count, seconds=device.light + made.count * PER_RECORD)
    shape, in_fp32 = world.shape(params["orm"]), str(params["dtype"]) == "fp32"
    read = made.count * (world.prompt(made.task, shape, {}) + made.tokens)
    work = device.read(shape, read, params["batch_tokens"] or VERIFIER_TOKENS, in_fp32)
    seconds = device.start(shape) + work + made.count * PER_RECORD
    memory = (4 if in_fp32 else device.itemsize) * shape.parameters + 1e9
    return Cost(made.count, read=read, memory=memory, seconds=seconds)


VERIFIER_TOKENS = 1 << 16  # in one forward pass of a verifier on a GPU
PER_RECORD = 3e-5  # seconds to read, judge and write a record with its token ids
TRAINER = 1.5  # seconds to set up and save, beyond the start of a stage that only loads a model
SORTED = 1.13  # padding where rollouts of similar length share a forward pass, as in PPO


def _asks_orm(params: Mapping[str, Any]) -> bool:
    return any(one.rpartition("=")[2] == "orm" for one in params["reward"] or ())


def _filter(params: Mapping[str, Any], world: World) -> Cost:
    found = [(name, world.read((name,))) for name in params["samples"]]
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
    rows = [world.read((name,), params["limit"]) for name in params["records"]]
    examples = sum(row.count for row in rows) or 1
    learnt = lambda row: world.prompt(row.task, shape, params) + (row.tokens or lengths(row.task, shape)[1])
    each = sum(row.count * learnt(row) for row in rows) / examples
    return _trains("sft", params, world, rows[0].task if rows else "", examples, each)


def _orm(params: Mapping[str, Any], world: World) -> Cost:
    shape = world.shape(params["model"])
    rows = world.read(params["scored"], params["limit"])
    each, held = world.prompt(rows.task, shape, params) + rows.tokens, params["held_out"]
    cost = _trains("orm", params, world, rows.task, rows.count * (1 - held), each)
    cost.read = rows.count * held * each
    cost.seconds += world.device.read(shape, cost.read)
    return cost


def _trains(
    stage: str, params: Mapping[str, Any], world: World, task: str, examples: float, each: float, **remembered: Any
) -> Cost:
    """Supervised training on examples of `each` tokens; the checkpoint is there from now on, and what it remembers."""
    base = params["base" if stage == "rcrl" else "model"]
    shape, device = world.shape(base), world.device
    lora, recompute = params["lora_rank"], params["gradient_checkpointing"]
    epochs, batch = _defaults(stage, params, base, world)
    epochs = epochs if params["epochs"] is None else params["epochs"]
    most = params["batch_tokens"] or device.pass_tokens(shape)
    step = (params["batch_size"] or batch) * each * (world.assume.padding or padding(task, shape))
    microbatch = min(most, int(step) + 1)
    learnt = examples * epochs * each * (world.assume.padding or padding(task, shape, max(1, step / most)))
    work = device.learn(shape, learnt, microbatch, bool(lora), recompute, stage == "orm")
    seconds = TRAINER + device.start(shape) + work
    known = {"trained": True, "exemplars": world.exemplars(shape, params)} | remembered
    world.checkpoints[params["output"].rstrip("/")] = replace(shape, **known)
    memory = device.learning_memory(shape, lora) + device.activation_memory(shape, microbatch, recompute)
    return Cost(examples, learnt=learnt, memory=memory, seconds=seconds)


def _ppo(params: Mapping[str, Any], world: World) -> Cost:
    shape, device, lora = world.shape(params["model"]), world.device, params["lora_rank"]
    asked = world.problems(params, params.get("problems") or ())
    samples, batch, _, epochs = (
        params[name] or default
        for name, default in zip(
            ("samples", "batch_size", "k", "epochs"), _defaults("ppo", params, params["model"], world), strict=True
        )
    )
    updates = max(1, round(samples / batch))
    count = updates * batch
    draw = world.draw(asked.task, shape, batch, world.prompt(asked.task, shape, params), params["max_tokens"])
    each = draw.prompt + draw.tokens
    read, learnt = 2 * count * each, count * each * epochs * SORTED
    microbatch = params["batch_tokens"] or (1 << 15 if device.is_gpu else 1 << 11)
    recompute = params["gradient_checkpointing"]
    held = device.learning_memory(shape, lora) + (0 if lora else 4 * shape.parameters)  # the reference
    seconds = TRAINER + device.start(shape)
    if _asks_orm(params):
        verifier = world.shape(params["orm"])
        held += 4 * verifier.parameters
        judged = count * (world.prompt(asked.task, verifier, {}) + draw.tokens)
        seconds += device.read(verifier, judged, params["batch_tokens"] or VERIFIER_TOKENS, in_fp32=True)
        read += judged
    engine = Engine(False, device.itemsize if lora else 4, held)
    if device.is_gpu:
        seconds += updates * device.generate(shape, draw, params["temperature"], engine)
        seconds += device.read(shape, 2 * count * each, 2 * microbatch)
        seconds += device.learn(shape, learnt, microbatch, bool(lora), recompute)
    else:
        rates = device.rates(shape)
        seconds += count * (draw.tokens / rates.rollout + each * (1 / rates.score + epochs / rates.update))
    # Rollouts and updates take turns, and what each needs is given back.
    turn = max(device.activation_memory(shape, microbatch, recompute), device.batch_memory(shape, draw, engine))
    output = params["output"].rstrip("/")
    kept = range(params["keep_every"], updates, params["keep_every"]) if params["keep_every"] else ()
    for name in (output, *(f"{output}-{update}" for update in kept)):
        world.checkpoints[name] = replace(shape, trained=True, exemplars=world.exemplars(shape, params))
    return Cost(count, count, count * draw.tokens, read, learnt, held + turn, seconds, _no_room(draw, shape))


def _rcrl(params: Mapping[str, Any], world: World) -> Cost:
    """Solutions and k completions of each different prefix; then `sft` on what balancing leaves of the solutions.
    Either part alone with --save-data and without -o, or with --data."""
    base, cost = world.shape(params["base"]), Cost()
    form = world.exemplars(base, params)
    if params["data"]:
        labelled = world.read(params["data"])
    else:
        policy = world.shape(params["model"])
        labelled, cost = _labelling(params, world, policy)
        form = form or world.exemplars(policy, params)
        if params["save_data"]:
            world.files[params["save_data"]] = labelled
    if not params["output"]:
        cost.records = labelled.count
        return cost
    learner = replace(base, exemplars=form, label=1 if params["labels"] == "tokens" else LABEL[family(base)])
    learnt = labelled.count * world.assume.learnt
    each = world.prompt(labelled.task, learner, params) + labelled.tokens + _labels(learner, world)
    trained = _trains("rcrl", params, world, labelled.task, learnt, each, exemplars=form, label=learner.label)
    cost.records, cost.learnt = learnt, trained.learnt
    cost.memory = max(cost.memory, trained.memory)
    cost.seconds += trained.seconds
    return cost


def _labelling(params: Mapping[str, Any], world: World, policy: Shape) -> tuple[Made, Cost]:
    """SLICE solutions at a time, then all completions of their prefixes, which the engine draws together."""
    device, assume, k = world.device, world.assume, params["k"]
    asked = world.problems(params, params["problems"] or ())
    slices = math.ceil(asked.count / max(1, SLICE // params["solutions"]))
    solutions = asked.count * params["solutions"]
    whole = world.draw(
        asked.task, policy, solutions / slices, world.prompt(asked.task, policy, params), params["max_tokens"]
    )
    prefix = whole.prompt + (1 - assume.rest) * whole.tokens
    rest = world.draw(asked.task, policy, whole.sequences * assume.prefixes * k, prefix, params["max_tokens"])
    rest = replace(rest, tokens=assume.rest * whole.tokens)
    engine = _engine(policy, device)
    cost = Cost(samples=solutions * (1 + assume.prefixes * k), no_room=_no_room(rest, policy))
    cost.generated = solutions * (whole.tokens + assume.prefixes * k * rest.tokens)
    cost.read = asked.count * whole.prompt + solutions * assume.prefixes * prefix
    cost.seconds = device.start(policy) + device.read(policy, cost.read)
    for draw in (whole, rest):
        cost.seconds += slices * device.generate(policy, draw, params["temperature"], engine)
        cost.memory = max(cost.memory, engine.resident + device.batch_memory(policy, draw, engine))
    return replace(asked, count=solutions, tokens=whole.tokens), cost


SLICE = 512  # solutions that are labelled together


def _labels(shape: Shape, world: World) -> float:
    """Tokens of a solution's labels: one before each step, which is one more than there are prefixes."""
    return (1 + world.assume.prefixes) * shape.label


def _defaults(stage: str, params: Mapping[str, Any], model: str, world: World) -> tuple:
    asked = str(params["preset"])
    if asked == "auto":
        asked = "tiny" if world.shape(model).family.startswith("tiny") else "paper"
    return PRESETS[stage][asked]


def _eval(params: Mapping[str, Any], world: World) -> Cost:
    made = world.read(params["scored"])
    world.files[params["output"]] = Made(made.task, 1, 1)
    return Cost(1, seconds=2 * world.device.light + made.count * PER_RECORD)


def _report(params: Mapping[str, Any], world: World) -> Cost:
    made = world.read(params["metrics"])
    return Cost(made.count, seconds=world.device.plots)


STAGES: dict[str, Callable[[Mapping[str, Any], World], Cost]] = {
    "data": _data, "sample": _sample, "score": _score, "filter": _filter, "sft": _sft, "orm": _orm, "ppo": _ppo,
    "rcrl": _rcrl, "eval": _eval, "report": _report,
}  # fmt: skip
