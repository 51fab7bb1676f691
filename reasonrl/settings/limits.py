"""Sizes that the parts with torch work by and the planner reckons with: batches, passes, what is held at a time."""

LOGITS = 1 << 26  # held at a time in training; beyond this they are computed in parts, and again in the backward pass

# One forward and backward pass of training.
CPU_PASS_BYTES = 1 << 30  # of activations: more make it no faster, and small batches of like lengths pad little
CPU_PASS_TOKENS = 1 << 13  # at most
GPU_PASS_TOKENS = 1 << 14
ACTIVATION_BYTES = 34  # a token, layer and hidden unit in bf16, twice that in fp32 (docs/plan.md)

# PPO's learning. On a CPU what a pass touches should stay in its caches.
CPU_PPO_TOKENS, GPU_PPO_TOKENS = 1 << 11, 1 << 15

# The in-process engine.
CPU_CACHE_BYTES = 2 << 30  # key-value cache and logits of a batch on a CPU
CPU_CACHE_TOKENS = 1 << 18  # on a CPU, where a larger batch is no faster, and output comes in larger lumps
GPU_SHARE = 0.5  # of a GPU's free memory: a step takes its time to launch, however few rows it has
MAX_ROWS = 65_535  # sequences in a batch: attention kernels number them with 16 bits
PREFILL_TOKENS = 1 << 14  # prompt tokens in one forward pass

# One forward pass of a reward model.
CPU_REWARD_TOKENS, GPU_REWARD_TOKENS = 1 << 13, 1 << 16

LABELLED_TOGETHER = 512  # solutions whose steps RCRL labels at a time
EXAMPLE_PROBLEMS = 16  # of `mini`, where none are given at a terminal
