"""Seconds and bytes: what devices do with tokens. docs/plan.md explains every formula and every constant."""

from dataclasses import dataclass, field

from reasonrl.errors import UsageError
from reasonrl.planning.shapes import Shape

LOGITS = 1 << 26  # most logits that exist at a time in training
CPU_MEMORY = 2 << 30  # bytes that the in-process engine takes for a batch on a CPU
MOST_TOKENS = 1 << 18  # tokens that it takes at most
SEQUENCES = 1024  # vLLM's max_num_seqs on a large GPU
# Seconds a layer to launch the kernels of a decoding step, and of a forward and backward pass: measured on an H100 that
# other processes used too (docs/results/smollm2-h100.md), so rather too long.
DECODE_LAUNCH, LEARN_LAUNCH = 0.0025, 0.0065


@dataclass(frozen=True)
class Rates:
    """Measured tokens a second, and the seconds until the first one.

    generate: drawn one by one, at temperature 1; cooler: the same at other temperatures; greedy: at 0. read: through a
    forward pass. learn: through forward and backward, padding included. verifier: the same for an ORM. rollout, score,
    update: the phases of PPO (`metrics.jsonl`), in completion tokens.
    """

    generate: float
    cooler: float
    greedy: float
    read: float
    learn: float
    verifier: float
    rollout: float
    score: float
    update: float
    start: float


@dataclass(frozen=True)
class Device:
    """A CPU with measured rates, or a GPU with a data sheet and assumed utilisations."""

    name: str
    memory: float  # bytes
    itemsize: int  # bytes of a weight while sampling
    measured: dict[str, Rates] = field(default_factory=dict)
    flops: float = 0  # dense bf16, a second
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
        return Rates(*(rate * scale for rate in list(vars(known).values())[:-1]), known.start / max(scale, 0.1))

    def start(self, shape: Shape, engine: bool = False) -> float:
        """Seconds from the command to the first token: imports, weights, and the engine's own start."""
        if not self.is_gpu:
            return self.rates(shape).start
        return 15 + 2 * shape.parameters / 1e9 + (60 if engine else 0)

    def generate(
        self, shape: Shape, sequences: int, prompt: float, tokens: float, temperature: float, vllm: bool
    ) -> float:
        """Seconds to draw `tokens` each for so many sequences after prompts of `prompt` tokens."""
        total = sequences * tokens
        if not self.is_gpu:
            rates = self.rates(shape)
            rate = {0.0: rates.greedy, 1.0: rates.generate}.get(temperature, rates.cooler)
            return total / rate
        rows = self.rows(shape, sequences, prompt, tokens)
        read = 2 * shape.parameters + rows * shape.kv_bytes(2) * (prompt + tokens / 2)
        overhead = 0.002 if vllm else DECODE_LAUNCH * shape.layers  # vLLM replays a graph: assumed
        work = 2 * shape.parameters * rows
        step = max(read / (self.bandwidth * self.decode_share), work / (self.flops * self.read_share))
        return total / rows * (step + overhead)

    def rows(self, shape: Shape, sequences: int, prompt: float, tokens: float) -> int:
        """Sequences that are decoded together."""
        if self.is_gpu:
            held = max(0.0, 0.9 * self.memory - self.itemsize * shape.parameters) / shape.kv_bytes(self.itemsize)
            return max(1, min(sequences, int(held / (prompt + tokens)), SEQUENCES))
        held = min(CPU_MEMORY / shape.kv_bytes(self.itemsize), MOST_TOKENS)
        return max(1, min(sequences, int(held / (prompt + tokens))))

    def read(self, shape: Shape, tokens: float) -> float:
        """Seconds of forward passes."""
        if not self.is_gpu:
            return tokens / self.rates(shape).read
        return 2 * shape.parameters * tokens / (self.flops * self.read_share)

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

    def sampling_memory(self, shape: Shape, sequences: int, prompt: float, tokens: float) -> float:
        """Bytes of weights, and of keys and values at the longest."""
        rows = self.rows(shape, sequences, prompt, tokens)
        return self.itemsize * shape.parameters + rows * (prompt + tokens) * shape.kv_bytes(self.itemsize)

    def training_memory(self, shape: Shape, rank: int, microbatch: int, recompute: bool) -> float:
        """Bytes of weights, gradients, AdamW's two moments, activations and logits of one microbatch.

        All weights in fp32 with their gradients and moments take 16 N; LoRA keeps the frozen ones in this device's
        precision and 16 bytes for each of the adapter's. Activations: 34 bytes a token, layer and hidden unit in bf16
        (Korthikanti et al. 2022, arXiv 2205.05198, without the attention matrix), 2 where they are computed again.
        """
        adapter = shape.adapter_parameters(rank)
        weights = self.itemsize * shape.parameters + 16 * adapter if rank else 16 * shape.parameters
        unit = microbatch * shape.hidden * self.itemsize / 2
        activations = unit * (2 * shape.layers + 34 if recompute else 34 * shape.layers)
        return weights + activations + 2 * 4 * min(LOGITS, microbatch * shape.vocabulary)


TINY, SMOLLM2 = 672_384, 134_515_008  # parameters of the models that were measured

DEVICES = {
    "cpu2": Device(
        "cpu2", 24e9, 4,
        {
            "tiny": Rates(11_500, 10_700, 7_000, 33_000, 13_500, 15_900, 8_100, 6_800, 4_700, 9.0),
            "smollm2": Rates(165, 165, 165, 345, 115, 115, 165, 170, 115, 15.0),
        },
    ),
    # Data sheets: dense bf16 and memory of the SXM cards. The shares of them are assumptions, not measurements.
    "a100": Device("a100", 80e9, 2, flops=312e12, bandwidth=2.04e12),
    "h100": Device("h100", 80e9, 2, flops=989e12, bandwidth=3.35e12),
}  # fmt: skip


def device(name: str) -> Device:
    if name not in DEVICES:
        raise UsageError(f"--device {name}: no such device; there are {', '.join(DEVICES)}")
    return DEVICES[name]
