"""Seconds and bytes: what devices do with tokens. docs/plan.md explains every formula and every constant."""

import math
from dataclasses import dataclass, field

from reasonrl.errors import UsageError
from reasonrl.planning.shapes import Shape
from reasonrl.settings import limits

SEQUENCES = 1024  # vLLM's max_num_seqs on a large GPU
# Seconds a layer to launch the kernels of a forward pass, and of a forward and backward pass: measured on an H100 that
# other processes used too (docs/results/smollm2-h100.md), so rather too long.
FORWARD_LAUNCH, LEARN_LAUNCH = 0.0025, 0.0065


@dataclass(frozen=True)
class Rates:
    """Measured tokens per second, and the seconds until the first one.

    generate: drawn one by one, at temperature 1; cooler: the same at other temperatures; greedy: at 0. read: through a
    forward pass. learn: through forward and backward, padding included. verifier: the same for an ORM. rollout,
    evaluate, update: the phases of PPO (`metrics.jsonl`), the first in completion tokens, the others with prompts.
    """

    generate: float
    cooler: float
    greedy: float
    read: float
    learn: float
    verifier: float
    rollout: float
    evaluate: float
    update: float
    start: float


@dataclass(frozen=True)
class Draw:
    """Completions that are asked for at once: how many, tokens of a prompt and of a completion on average, of the
    longest completion in a batch, and as many as one may have."""

    sequences: float
    prompt: float
    tokens: float
    longest: float
    most: float


@dataclass(frozen=True)
class PlannedEngine:
    """What draws them. itemsize: bytes of a weight. resident: bytes of the device that are taken before it begins."""

    vllm: bool
    itemsize: int
    resident: float


@dataclass(frozen=True)
class Device:
    """A CPU with measured rates, or a GPU with a data sheet and assumed utilisations."""

    name: str
    memory: float  # bytes
    itemsize: int  # bytes of a weight while sampling
    measured: dict[str, Rates] = field(default_factory=dict)
    flops: float = 0  # dense bf16, a second
    fp32: float = 0  # FLOP/s in fp32, TF32 not allowed
    bandwidth: float = 0  # bytes a second
    learn_share: float = 0.35  # assumed: of `flops`, forward and backward
    read_share: float = 0.5  # assumed: of `flops`, forward on long batches
    decode_share: float = 0.6  # assumed: of `bandwidth`, while decoding
    light: float = 0.7  # seconds of a stage that loads no model
    plots: float = 4.0  # seconds of a report

    @property
    def is_gpu(self) -> bool:
        return self.flops > 0

    def rates(self, shape: Shape) -> Rates:
        """The measured rates of this kind of model; of the nearest measured one, scaled by parameters, for others."""
        if shape.family in self.measured:
            return self.measured[shape.family]
        near, size = ("tiny", TINY) if shape.parameters < 10 * TINY else ("smollm2", SMOLLM2)
        known, scale = self.measured[near], min(1.0, size / shape.parameters)
        return Rates(*[*(rate * scale for rate in list(vars(known).values())[:-1]), known.start / max(scale, 0.1)])

    def start(self, shape: Shape, engine: bool = False) -> float:
        """Seconds from the command to the first token: imports, weights, and the engine's own start."""
        if not self.is_gpu:
            return self.rates(shape).start
        return 15 + 2 * shape.parameters / 1e9 + (60 if engine else 0)

    def generate(self, shape: Shape, draw: Draw, temperature: float, engine: PlannedEngine) -> float:
        """Seconds to draw completions. vLLM fills up what has ended; a batch in process ends with its longest row."""
        if not self.is_gpu:
            rates = self.rates(shape)
            rate = {0.0: rates.greedy, 1.0: rates.generate}.get(temperature, rates.cooler)
            return draw.sequences * draw.tokens / rate
        rows, total = self.rows(shape, draw, engine), draw.sequences * draw.tokens
        if engine.resident > self.memory:  # it does not fit; the time is that of a device that had room
            rows = draw.sequences
        steps = total / rows if engine.vllm else math.ceil(draw.sequences / rows) * draw.longest
        living = total / steps
        read: float = engine.itemsize * shape.parameters
        read += living * shape.kv_bytes(engine.itemsize) * (draw.prompt + draw.tokens / 2)
        launch = 0.002 if engine.vllm else FORWARD_LAUNCH * shape.layers  # vLLM replays a graph: assumed
        work = 2 * shape.parameters * living
        step = max(read / (self.bandwidth * self.decode_share), work / (self.flops * self.read_share))
        return steps * (step + launch)

    def rows(self, shape: Shape, draw: Draw, engine: PlannedEngine) -> float:
        """Sequences that are decoded together. The in-process engine keeps room for as many tokens as may come."""
        if engine.vllm:
            free = 0.9 * self.memory - engine.resident
        else:
            free = limits.GPU_SHARE * (self.memory - engine.resident) if self.is_gpu else limits.CPU_CACHE_BYTES
        held = min(SEQUENCES if engine.vllm else limits.MAX_ROWS, free / self.row_bytes(shape, draw, engine))
        if not self.is_gpu:
            held = min(held, limits.CPU_CACHE_TOKENS / (draw.prompt + draw.most))
        return min(draw.sequences, max(1, int(held)))

    def row_bytes(self, shape: Shape, draw: Draw, engine: PlannedEngine) -> float:
        """Keys and values of a sequence; in process, as there, with four arrays of logits for each 64 tokens."""
        if engine.vllm:
            return shape.kv_bytes(engine.itemsize) * (draw.prompt + draw.tokens)
        return (shape.kv_bytes(engine.itemsize) + shape.vocabulary / 4) * (draw.prompt + draw.most)

    def batch_memory(self, shape: Shape, draw: Draw, engine: PlannedEngine) -> float:
        """Bytes of all that is decoded together."""
        return self.rows(shape, draw, engine) * self.row_bytes(shape, draw, engine)

    def read(self, shape: Shape, tokens: float, at_once: float = limits.PREFILL_TOKENS, in_fp32: bool = False) -> float:
        """Seconds of forward passes over `at_once` tokens each; on a GPU the launching of kernels besides."""
        if not self.is_gpu:
            return tokens / self.rates(shape).read
        launch = tokens / at_once * FORWARD_LAUNCH * shape.layers
        return 2 * shape.parameters * tokens / ((self.fp32 if in_fp32 else self.flops) * self.read_share) + launch

    def learn(
        self, shape: Shape, tokens: float, microbatch: int, lora: bool, recompute: bool, verifier: bool = False
    ) -> float:
        """Seconds of forward and backward passes over `microbatch` tokens each: 6 N a token, 4 N where only an adapter
        learns, and 2 N more where activations are computed again; on a GPU the launching of kernels besides."""
        if not self.is_gpu:
            rates = self.rates(shape)
            work = (2 / 3 if lora else 1) * (4 / 3 if recompute else 1)
            return work * tokens / (rates.verifier if verifier else rates.learn)
        work = (4 if lora else 6) + (2 if recompute else 0)
        launch = tokens / microbatch * LEARN_LAUNCH * shape.layers
        return work * shape.parameters * tokens / (self.flops * self.learn_share) + launch

    def pass_tokens(self, shape: Shape) -> int:
        """Tokens of one forward and backward pass of `sft`, `orm` and `rcrl`, where --batch-tokens does not say."""
        each = limits.ACTIVATION_BYTES * self.itemsize // 2 * shape.layers * shape.hidden
        return limits.GPU_PASS_TOKENS if self.is_gpu else min(limits.CPU_PASS_TOKENS, limits.CPU_PASS_BYTES // each)

    def learning_memory(self, shape: Shape, rank: int) -> float:
        """Bytes of weights, gradients and AdamW's two moments: 16 N for all weights in fp32; LoRA keeps the frozen ones
        in this device's precision, and 16 bytes for each of the adapter's."""
        return self.itemsize * shape.parameters + 16 * shape.adapter_parameters(rank) if rank else 16 * shape.parameters

    def activation_memory(self, shape: Shape, microbatch: int, recompute: bool) -> float:
        """Bytes of activations and logits of one microbatch: 34 a token, layer and hidden unit in bf16 (Korthikanti et
        al. 2022, arXiv 2205.05198, without the attention matrix), 2 where they are computed again."""
        unit = microbatch * shape.hidden * self.itemsize / 2
        activations = unit * (
            2 * shape.layers + limits.ACTIVATION_BYTES if recompute else limits.ACTIVATION_BYTES * shape.layers
        )
        return activations + 2 * 4 * min(limits.LOGITS, microbatch * shape.vocabulary)


TINY, SMOLLM2 = 672_384, 134_515_008  # parameters of the models that were measured

DEVICES = {
    "cpu2": Device(
        "cpu2", 24e9, 4,
        {
            "tiny": Rates(11_500, 10_700, 7_000, 33_000, 13_500, 15_900, 8_100, 15_450, 10_680, 9.0),
            # PPO was not measured: policy and reference read, and rollouts are padded less than other examples.
            "smollm2": Rates(165, 204, 72, 350, 168, 175, 165, 350 / 2, 168 / 1.13, 15.0),
        },
    ),
    # NVIDIA's data sheets of the SXM cards, without sparsity. The shares of them are assumptions, not measurements.
    "a100": Device("a100", 80e9, 2, flops=312e12, fp32=19.5e12, bandwidth=2.04e12),
    "h100": Device("h100", 80e9, 2, flops=989e12, fp32=67e12, bandwidth=3.35e12),
}  # fmt: skip


def device(name: str) -> Device:
    if name not in DEVICES:
        raise UsageError(f"--device {name}: no such device; there are {', '.join(DEVICES)}")
    return DEVICES[name]
