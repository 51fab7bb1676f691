# `just` lists what can be done here; `just lint`, `just test-all` and `just test-vllm` are what CI runs.

python := env("PYTHON", "python")

_default:
    @just --list

# What the README runs: all tests but the long ones.
test *ARGS:
    {{python}} -m pytest {{ARGS}}

# The long ones too: learning, and SmolLM2 on GSM8K.
test-all *ARGS:
    {{python}} -m pytest -m "" {{ARGS}}

# The tests that take no more than a few seconds each.
test-fast *ARGS:
    {{python}} -m pytest -m "not slow" {{ARGS}}

# The vLLM engine and a real `vllm serve`, on a CPU, in an environment of their own (built in .venv-vllm the first time).
test-vllm *ARGS:
    PYTHON={{python}} tests/vllm/run.sh {{ARGS}}

# What CI checks beside the tests: format, lint, the tree against docs/architecture.md, and the types.
lint:
    ruff format --check .
    ruff check .
    {{python}} tools/structure.py
    mypy reasonrl

# Expert Iteration on the embedded default.
demo *ARGS:
    reasonrl demo {{ARGS}}

# Expert Iteration over three seeds: the table in docs/results/expert-iteration-mini/report.md.
expert-iteration:
    recipes/expert_iteration_seeds.sh

# Return-conditioned RL over three seeds: a table in runs/rcrl-mini/report/report.md.
rcrl:
    recipes/rcrl_seeds.sh

# The paper's tables and figures: presets are in recipes/presets/, everything goes to runs/PRESET/ (docs/tables.md).
PRESET := env("PRESET", "tiny")
SEEDS := env("SEEDS", "0")

table1: (_paper "table1")
table2: (_paper "table2")
table3: (_paper "table3")
figure-samples: (_paper "figure_samples")
figure-sft: (_paper "figure_sft")
figure-diversity: (_paper "figure_diversity")
figure-model-size: (_paper "figure_model_size")

_paper NAME:
    PRESET={{PRESET}} SEEDS="{{SEEDS}}" recipes/{{NAME}}.sh

# What every command of a table or figure would cost: just PRESET=llama2-7b plan table1
plan NAME *FLAGS:
    PLAN=1 PRESET={{PRESET}} SEEDS="{{SEEDS}}" recipes/{{replace(NAME, "-", "_")}}.sh {{FLAGS}}

# How far the plan of a finished table is from what was measured.
plan-check NAME *FLAGS:
    PRESET={{PRESET}} SEEDS="{{SEEDS}}" {{python}} benchmarks/plan_check.py recipes/{{replace(NAME, "-", "_")}}.sh {{FLAGS}}

# Rebuild the bundled model, in build/tiny/tiny.
tiny:
    recipes/tiny.sh build/tiny

# Speed and memory claims, each against a named peer in one run.
bench:
    {{python}} benchmarks/jsonl_throughput.py
    {{python}} benchmarks/sampling_throughput.py
    {{python}} benchmarks/pipe_cost.py
    {{python}} benchmarks/ppo_vs_trl.py

# The pages of docs/ as a site, in site/index.html; warnings end it.
docs *ARGS:
    {{python}} -m mkdocs build --strict {{ARGS}}

# Write docs/cli.md anew, from the commands.
cli-reference:
    {{python}} tools/cli_reference.py
