"""What each stage makes of its inputs, and what that costs. Files are known by what the commands before would write."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from reasonrl.errors import ReasonRLError, UsageError
from reasonrl.planning.devices import Device, Draw, PlannedEngine
from reasonrl.planning.shapes import Shape
from reasonrl.planning.world import LABEL, Cost, Made, World, family, lengths, padding
from reasonrl.settings import (
    DataSettings,
    EvalSettings,
    FilterSettings,
    OrmSettings,
    PpoSettings,
    RcrlSettings,
    ReportSettings,
    SampleSettings,
    ScoreSettings,
    SftSettings,
    StageSettings,
    limits,
)
from reasonrl.settings.shared import RewardSettings


def cost_of(settings: StageSettings, command: str, world: World) -> Cost:
    """What a command costs in this world, which then holds what it makes. A command that was there before is done."""
    stage, known = settings.STAGE, settings.values()
    if stage not in STAGES:
        raise ReasonRLError(f"nothing is known of what {stage} costs")
    output = str(known.get("output") or known.get("save_data") or "-").rstrip("/")
    if output != "-" and output in world.done:
        if world.done[output] != command:
            raise UsageError(f"{output}: another command makes it: {world.done[output]}")
        if known.get("resume"):
            return Cost(seconds=0)
    cost = STAGES[stage](settings, world)
    if output != "-":
        world.done[output] = command
    return cost


def _data(settings: DataSettings, world: World) -> Cost:
    made = world.problems(settings)
    world.files[settings.output] = made
    return Cost(made.count, seconds=world.device.light)


def _sample(settings: SampleSettings, world: World) -> Cost:
    shape, device = world.shape(settings.model), world.device
    problems = world.problems(settings, settings.problems)
    count, prompt = problems.count * settings.k, world.prompt(problems.task, shape, settings)
    draw = world.draw(problems.task, shape, count, prompt, settings.max_tokens)
    world.files[settings.output] = replace(problems, count=count, tokens=draw.tokens, trained=shape.trained)
    read = problems.count * prompt
    if shape.label:  # each step but the first is asked for by itself, and all before it is read again
        read += count * world.assume.prefixes * (prompt + (draw.tokens + _labels(shape, world)) / 2)
    engine = _engine(shape, device, vllm=device.is_gpu and settings.backend != "hf")
    seconds = device.start(shape, engine.vllm) + device.read(shape, read)
    seconds += device.generate(shape, draw, settings.temperature, engine)
    memory = engine.resident + device.batch_memory(shape, draw, engine)
    return Cost(count, count, count * draw.tokens, read, 0, memory, seconds, _no_room(draw, shape))


def _engine(shape: Shape, device: Device, vllm: bool = False) -> PlannedEngine:
    """An engine that has the device to itself but for its weights."""
    return PlannedEngine(vllm, device.itemsize, device.itemsize * shape.parameters)


def _no_room(draw: Draw, shape: Shape) -> str:
    if draw.prompt < shape.context:
        return ""
    return f"a prompt of {draw.prompt:.0f} tokens does not fit the model's context of {shape.context}"


def _score(settings: ScoreSettings, world: World) -> Cost:
    device, made = world.device, world.read(settings.samples)
    world.files[settings.output] = made
    if not _asks_orm(settings):
        return Cost(made.count, seconds=device.light + made.count * PER_RECORD)
    shape, in_fp32 = world.shape(settings.orm), settings.dtype == "fp32"
    read = made.count * (world.prompt(made.task, shape) + made.tokens)
    work = device.read(shape, read, settings.batch_tokens or limits.GPU_REWARD_TOKENS, in_fp32)
    seconds = device.start(shape) + work + made.count * PER_RECORD
    memory = (4 if in_fp32 else device.itemsize) * shape.parameters + 1e9
    return Cost(made.count, read=read, memory=memory, seconds=seconds)


PER_RECORD = 3e-5  # seconds to read, grade and write a record with its token ids
TRAINER = 1.5  # seconds to set up and save, beyond the start of a stage that only loads a model
SORTED = 1.13  # padding where rollouts of similar length share a forward pass, as in PPO


def _asks_orm(settings: RewardSettings) -> bool:
    return any(one.rpartition("=")[2] == "orm" for one in settings.reward)


def _filter(settings: FilterSettings, world: World) -> Cost:
    inputs = [(name, world.read((name,))) for name in settings.samples]
    earlier = [made.count for name, made in inputs if world.files[name].earlier]
    fresh = sum(made.count for name, made in inputs if not world.files[name].earlier)
    keep = world.assume.keep if inputs[0][1].trained else world.assume.start_keep
    kept = fresh * (keep if settings.min_reward is not None else 1)
    kept = kept * (1 - world.assume.again if earlier else 1) + sum(earlier)
    if settings.per_question:
        kept = min(kept, settings.per_question * inputs[0][1].questions)
    world.files[settings.output] = replace(inputs[0][1], count=kept, earlier=True)
    return Cost(kept, seconds=world.device.light + (fresh + sum(earlier)) * PER_RECORD / 2)


def _sft(settings: SftSettings, world: World) -> Cost:
    shape = world.shape(settings.model)
    rows = [world.read((name,), settings.limit) for name in settings.records]
    examples = sum(row.count for row in rows) or 1
    learnt = lambda row: world.prompt(row.task, shape, settings) + (row.tokens or lengths(row.task, shape)[1])
    each = sum(row.count * learnt(row) for row in rows) / examples
    return _trains(settings, world, rows[0].task if rows else "", examples, each)


def _orm(settings: OrmSettings, world: World) -> Cost:
    shape = world.shape(settings.model)
    rows = world.read(settings.scored, settings.limit)
    each, held = world.prompt(rows.task, shape, settings) + rows.tokens, settings.held_out
    cost = _trains(settings, world, rows.task, rows.count * (1 - held), each)
    cost.read = rows.count * held * each
    cost.seconds += world.device.read(shape, cost.read)
    return cost


def _trains(
    settings: SftSettings | OrmSettings | RcrlSettings,
    world: World,
    task: str,
    examples: float,
    each: float,
    **remembered: Any,
) -> Cost:
    """Supervised training on examples of `each` tokens; the checkpoint is there from now on, and what it remembers."""
    shape = world.shape(settings.base if isinstance(settings, RcrlSettings) else settings.model)
    device, lora, recompute = world.device, settings.lora_rank, settings.gradient_checkpointing
    most = settings.batch_tokens or device.pass_tokens(shape)
    update = settings.batch_size * each * (world.assume.padding or padding(task, shape))
    microbatch = min(most, int(update) + 1)
    learnt = examples * settings.epochs * each * (world.assume.padding or padding(task, shape, max(1, update / most)))
    work = device.learn(shape, learnt, microbatch, bool(lora), recompute, isinstance(settings, OrmSettings))
    seconds = TRAINER + device.start(shape) + work
    known = {"trained": True, "exemplars": world.exemplars(shape, settings)} | remembered
    world.checkpoints[settings.output.rstrip("/")] = replace(shape, **known)
    memory = device.learning_memory(shape, lora) + device.activation_memory(shape, microbatch, recompute)
    return Cost(examples, learnt=learnt, memory=memory, seconds=seconds)


def _ppo(settings: PpoSettings, world: World) -> Cost:
    shape, device, lora = world.shape(settings.model), world.device, settings.lora_rank
    problems = world.problems(settings, settings.problems)
    updates, epochs = settings.updates, settings.epochs
    count = updates * settings.batch_size
    prompt = world.prompt(problems.task, shape, settings)
    draw = world.draw(problems.task, shape, settings.batch_size, prompt, settings.max_tokens)
    each = draw.prompt + draw.tokens
    read, learnt = 2 * count * each, count * each * epochs * SORTED
    microbatch = settings.batch_tokens or (limits.GPU_PPO_TOKENS if device.is_gpu else limits.CPU_PPO_TOKENS)
    recompute = settings.gradient_checkpointing
    held = device.learning_memory(shape, lora) + (0 if lora else 4 * shape.parameters)  # the reference
    seconds = TRAINER + device.start(shape)
    if _asks_orm(settings):
        verifier = world.shape(settings.orm)
        held += 4 * verifier.parameters
        scored = count * (world.prompt(problems.task, verifier) + draw.tokens)
        seconds += device.read(verifier, scored, settings.batch_tokens or limits.GPU_REWARD_TOKENS, in_fp32=True)
        read += scored
    engine = PlannedEngine(False, device.itemsize if lora else 4, held)
    if device.is_gpu:
        seconds += updates * device.generate(shape, draw, settings.temperature, engine)
        seconds += device.read(shape, 2 * count * each, 2 * microbatch)
        seconds += device.learn(shape, learnt, microbatch, bool(lora), recompute)
    else:
        rates = device.rates(shape)
        seconds += count * (draw.tokens / rates.rollout + each * (1 / rates.evaluate + epochs / rates.update))
    # Rollouts and updates take turns, and what each needs is given back.
    turn = max(device.activation_memory(shape, microbatch, recompute), device.batch_memory(shape, draw, engine))
    output = settings.output.rstrip("/")
    kept = range(settings.keep_every, updates, settings.keep_every) if settings.keep_every else ()
    for name in (output, *(f"{output}-{update}" for update in kept)):
        world.checkpoints[name] = replace(shape, trained=True, exemplars=world.exemplars(shape, settings))
    return Cost(count, count, count * draw.tokens, read, learnt, held + turn, seconds, _no_room(draw, shape))


def _rcrl(settings: RcrlSettings, world: World) -> Cost:
    """Solutions and k completions of each different prefix; then `sft` on what balancing leaves of the solutions.
    Either part alone with --save-data and without -o, or with --data."""
    base, cost = world.shape(settings.base), Cost()
    form = world.exemplars(base, settings)
    if settings.data:
        labelled = world.read(settings.data)
    else:
        policy = world.shape(settings.model)
        labelled, cost = _labelling(settings, world, policy)
        form = form or world.exemplars(policy, settings)
        if settings.save_data:
            world.files[settings.save_data] = labelled
    if not settings.output:
        cost.records = labelled.count
        return cost
    learner = replace(base, exemplars=form, label=1 if settings.labels == "tokens" else LABEL[family(base)])
    learnt = labelled.count * world.assume.learnt
    each = world.prompt(labelled.task, learner, settings) + labelled.tokens + _labels(learner, world)
    trained = _trains(settings, world, labelled.task, learnt, each, exemplars=form, label=learner.label)
    cost.records, cost.learnt = learnt, trained.learnt
    cost.memory = max(cost.memory, trained.memory)
    cost.seconds += trained.seconds
    return cost


def _labelling(settings: RcrlSettings, world: World, policy: Shape) -> tuple[Made, Cost]:
    """Some solutions at a time, then all completions of their prefixes, which the engine draws together."""
    device, assume, k = world.device, world.assume, settings.k
    problems = world.problems(settings, settings.problems)
    slices = math.ceil(problems.count / max(1, limits.LABELLED_TOGETHER // settings.solutions))
    solutions = problems.count * settings.solutions
    whole = world.draw(
        problems.task, policy, solutions / slices, world.prompt(problems.task, policy, settings), settings.max_tokens
    )
    prefix = whole.prompt + (1 - assume.rest) * whole.tokens
    rest = world.draw(problems.task, policy, whole.sequences * assume.prefixes * k, prefix, settings.max_tokens)
    rest = replace(rest, tokens=assume.rest * whole.tokens)
    engine = _engine(policy, device)
    cost = Cost(samples=solutions * (1 + assume.prefixes * k), no_room=_no_room(rest, policy))
    cost.generated = solutions * (whole.tokens + assume.prefixes * k * rest.tokens)
    cost.read = problems.count * whole.prompt + solutions * assume.prefixes * prefix
    cost.seconds = device.start(policy) + device.read(policy, cost.read)
    for draw in (whole, rest):
        cost.seconds += slices * device.generate(policy, draw, settings.temperature, engine)
        cost.memory = max(cost.memory, engine.resident + device.batch_memory(policy, draw, engine))
    return replace(problems, count=solutions, tokens=whole.tokens), cost


def _labels(shape: Shape, world: World) -> float:
    """Tokens of a solution's labels: one before each step, which is one more than there are prefixes."""
    return (1 + world.assume.prefixes) * shape.label


def _eval(settings: EvalSettings, world: World) -> Cost:
    made = world.read(settings.scored)
    world.files[settings.output] = Made(made.task, 1, 1)
    return Cost(1, seconds=2 * world.device.light + made.count * PER_RECORD)


def _report(settings: ReportSettings, world: World) -> Cost:
    made = world.read(settings.metrics)
    return Cost(made.count, seconds=world.device.plots)


STAGES: dict[str, Callable[[Any, World], Cost]] = {
    "data": _data, "sample": _sample, "score": _score, "filter": _filter, "sft": _sft, "orm": _orm, "ppo": _ppo,
    "rcrl": _rcrl, "eval": _eval, "report": _report,
}  # fmt: skip
