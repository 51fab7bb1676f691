"""`reasonrl plan`, and the recipes of the tables and figures as plans: every command parses, every input is made."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from reasonrl.planning import commands, devices, shapes

RECIPES = sorted(path.stem for path in ROOT.glob("recipes/*.sh") if path.stem.startswith(("table", "figure")))
PRESETS = sorted(path.stem for path in ROOT.glob("recipes/presets/*.sh"))


def planned(sh, *lines, flags=""):
    stdin = "".join(f"{line}\n" for line in lines).encode()
    done = sh(f"reasonrl plan {flags}", stdin=stdin, timeout=180)
    assert done.code == 0, done.err
    return done.records


def by_recipe(environment, recipe, preset, **variables):
    return subprocess.run(
        ["bash", ROOT / "recipes" / f"{recipe}.sh"],
        env=environment | {"PRESET": preset, "RUNS": "runs/x", "PLAN": "1"} | variables,
        capture_output=True, text=True, cwd=variables.get("PWD"), timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_plans_with_every_preset_and_makes_nothing(environment, tmp_path, recipe, preset):
    done = by_recipe(environment, recipe, preset, PWD=str(tmp_path))
    assert done.returncode == 0, done.stderr
    plans = [json.loads(line) for line in done.stdout.splitlines()]
    stages = [plan["stage"] for plan in plans]
    assert stages[-1] == "report" and {"sample", "score", "eval", "sft"} <= set(stages)
    assert ("ppo" in stages) == (recipe in ("table1", "table2", "table3", "figure_samples"))
    assert all(plan["seconds"] > 0 or plan["stage"] in ("data", "sample", "score", "filter", "sft") for plan in plans)
    assert (
        sum(plan["tokens"]["generated"] for plan in plans) > 100_000 < sum(plan["tokens"]["learnt"] for plan in plans)
    )
    on_gpu = preset != "tiny"
    assert (sum(plan["gpu_hours"] for plan in plans) > 0) == on_gpu
    assert done.stderr.splitlines()[-1].endswith("GPU-hours on h100" if on_gpu else "hours on cpu2")
    assert not list(tmp_path.iterdir())


def test_tables_one_and_two_of_tiny_are_planned_within_ninety_minutes(environment):
    for recipe in ("table1", "table2"):
        plans = [json.loads(line) for line in by_recipe(environment, recipe, "tiny").stdout.splitlines()]
        assert sum(plan["seconds"] for plan in plans) < 90 * 60


def test_records_and_tokens_flow_from_command_to_command(sh):
    plans = planned(
        sh,
        "reasonrl data mini --limit 100 -o p.jsonl",
        "reasonrl sample p.jsonl --k 8 -o s.jsonl   # a comment",
        "",
        "reasonrl score s.jsonl --reward orm -o c.jsonl",
        "reasonrl filter c.jsonl --min-reward 1 --per-question 2 -o k.jsonl",
        "reasonrl sft k.jsonl p.jsonl --epochs 3 -o m",
        "reasonrl sample --task mini --split test --limit 50 --model m -o t.jsonl",
        "python -m reasonrl eval t.jsonl -o e.jsonl",
        flags="--assume tokens=40 --assume start_tokens=30 --assume start_keep=0.5 --assume padding=1",
    )
    prompt, reference = commands.LENGTHS["mini", "tiny"]
    assert [plan["records"] for plan in plans] == [100, 800, 800, 200, 300, 50, 1]  # 400 kept of 800, but 2 a question
    assert plans[1]["samples"] == 800 and plans[1]["tokens"]["generated"] == 800 * 30
    assert plans[2]["tokens"]["read"] == round(800 * (prompt + 30))
    assert plans[4]["tokens"]["learnt"] == pytest.approx(3 * (200 * (prompt + 30) + 100 * (prompt + reference)), abs=1)
    assert plans[5]["tokens"]["generated"] == 50 * 40  # of a trained policy


def test_ppo_counts_its_rollouts_and_names_its_checkpoints(sh):
    ppo = "reasonrl ppo --task mini --samples 1000 --batch-size 128 --epochs 3 --keep-every 3 -o runs/p"
    plans = planned(
        sh, ppo, "reasonrl sample --task mini --model runs/p-6 -o a", "reasonrl sample --task mini --model runs/p -o b"
    )
    assert plans[0]["samples"] == 8 * 128  # whole updates
    done = sh("reasonrl plan", stdin=f"{ppo}\nreasonrl sample --task mini --model runs/p-5 -o a\n".encode())
    assert done.code == 2 and "<stdin>:2: runs/p-5: no earlier command makes it" in done.err


def test_what_was_made_before_is_not_paid_for_again(sh):
    line = "reasonrl sample --task mini --k 96 --resume -o s.jsonl"
    once, again = planned(sh, line, line)
    assert once["seconds"] > 10 and again["seconds"] == again["samples"] == 0


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("reasonrl sample --kk 8", "sample: No such option: --kk"),
        ("reasonrl sample --k 0", "sample: Invalid value for '--k'"),
        ("reasonrl frobnicate", "no stage 'frobnicate'"),
        ("reasonrl score s.jsonl", "s.jsonl: no earlier command makes it"),
        (
            "reasonrl sample --task mini --model ./mine",
            "./mine: no earlier command makes it, and its size is not known",
        ),
        ("jq . x.jsonl", "want `reasonrl STAGE FLAGS…`"),
        ("reasonrl 'sample", "is no line of shell"),
        ("reasonrl demo", "nothing is known of what demo costs"),
    ],
)
def test_what_cannot_be_planned_is_located(sh, line, complaint):
    done = sh("reasonrl plan", stdin=f"\n{line}\n".encode())
    assert done.code in (1, 2) and done.err.startswith("reasonrl plan: <stdin>:2: ") and complaint in done.err


def test_two_commands_with_one_output_are_a_mistake(sh):
    lines = b"reasonrl sample --k 2 --task mini -o s.jsonl\nreasonrl sample --k 4 --task mini -o s.jsonl\n"
    assert "s.jsonl: another command makes it" in sh("reasonrl plan", stdin=lines).err


def test_flags_of_plan(sh):
    assert "no such device; there are cpu2" in sh("reasonrl plan --device tpu", stdin=b"reasonrl sample\n").err
    assert "want NAME=NUMBER" in sh("reasonrl plan --assume keep=some", stdin=b"reasonrl sample\n").err
    assert "want NAME=NUMBER" in sh("reasonrl plan --assume pace=1", stdin=b"reasonrl sample\n").err
    assert "no command lines" in sh("reasonrl plan", stdin=b"# nothing\n").err


def test_variables_before_a_command_count(sh):
    sample = "reasonrl sample --task gsm8k --model meta-llama/Llama-2-7b-hf -o s"
    score = "REASONRL_ORM=meta-llama/Llama-2-7b-hf reasonrl score s --reward orm -o c"
    assert planned(sh, sample, score, flags="--device h100")[1]["memory_gb"] > 13


def test_a_plan_loads_nothing_heavy(environment, tmp_path):
    from test_command_line import imported

    line = b"reasonrl sample --task mini --k 8 -o s.jsonl\nreasonrl ppo --task mini -o p\n"
    assert imported(environment, tmp_path, "plan", "-q", stdin=line) == set()


# The arithmetic


def test_parameters_are_those_of_the_published_models():
    count = lambda name: shapes.of_model(name).parameters
    assert count("meta-llama/Llama-2-7b-hf") == 6_738_415_616
    assert count("meta-llama/Llama-2-13b-hf") == 13_015_864_320
    assert count("HuggingFaceTB/SmolLM2-135M-Instruct") == 134_515_008 == devices.SMOLLM2
    assert count("tiny") == 672_384 == devices.TINY and count("runs/tiny/tiny-small/tiny") == 241_984


def test_parameters_of_a_model_are_counted_as_torch_counts_them():
    from reasonrl.models import adapters
    from reasonrl.models.policy import load_policy

    policy, shape = load_policy("tiny"), shapes.of_model("tiny")
    assert shape.parameters == sum(p.numel() for p in policy.model.parameters())
    learnt = adapters.add_lora(policy, 8, "CAUSAL_LM", 0)
    assert shape.adapter_parameters(8) == sum(p.numel() for p in learnt.parameters() if p.requires_grad)


def test_key_value_bytes_and_training_memory_by_hand():
    llama, gpu = shapes.of_model("Llama-2-7b"), devices.device("h100")
    assert llama.kv_bytes(2) == 2 * 32 * 4096 * 2
    assert shapes.of_model("smollm2").kv_bytes(4) == 2 * 30 * 3 * 64 * 4
    # 16 bytes a parameter do not fit 80 GB; a LoRA adapter of rank 64 does
    assert gpu.training_memory(llama, 0, 4096, True) > 80e9 > gpu.training_memory(llama, 64, 4096, True)


def test_a_gpu_decodes_faster_with_more_rows_and_is_bounded_by_its_memory():
    llama, gpu = shapes.of_model("Llama-2-7b"), devices.device("a100")
    per_token = lambda count: gpu.generate(llama, count, 100, 100, 1.0, vllm=True) / count
    assert per_token(1) > 10 * per_token(64) > 10 * per_token(512) / 2
    assert gpu.rows(llama, 10**6, 100, 100) < 0.9 * 80e9 / llama.kv_bytes(2) / 200


def test_the_presets_are_those_of_the_trainers():
    """The planner may not import torch, so it has the trainers' defaults a second time."""
    from reasonrl.training import likelihood, orm, ppo

    settings = ppo.Settings()
    assert commands.PRESETS["ppo"]["paper"] == (settings.samples, settings.batch_size, settings.k, settings.epochs)
    for stage, module in (("sft", likelihood), ("rcrl", likelihood), ("orm", orm)):
        assert commands.PRESETS[stage]["paper"] == (module.Settings().epochs, module.Settings().batch_size)


def test_lengths_are_those_of_the_bundled_model():
    """Tokens of prompts and references of mini, as the tokenizer of `tiny` counts them."""
    from statistics import mean

    from reasonrl.models.policy import load_tokenizer
    from reasonrl.tasks import source
    from reasonrl.tasks.prompts import PromptForm

    policy, problems = load_tokenizer("tiny"), list(source.task_problems("mini", "test"))
    prompts = mean(len(policy.encode_prompt(PromptForm().render(one["question"]))) for one in problems)
    references = mean(len(policy.encode_completion(one["reference"])) + 1 for one in problems)
    assert commands.LENGTHS["mini", "tiny"] == pytest.approx((prompts, references), rel=0.01)


def test_problems_are_counted_as_the_tasks_have_them(data):
    from reasonrl.tasks import source

    for task, (train, test) in commands.PROBLEMS.items():
        for split, count in (("train", train), ("test", test)):
            assert sum(1 for _ in source.task_problems(task, split, None if task == "mini" else str(data))) == count


def test_a_round_of_smollm2_is_planned_as_it_was_measured(sh):
    """Within 25% of docs/results/smollm2-gsm8k.md."""
    plans = planned(
        sh,
        "reasonrl data gsm8k --limit 64 -o references",
        "reasonrl sample --task gsm8k --limit 32 --k 4 --max-tokens 128 --model ./smollm2 -o samples",
        "reasonrl score samples -o scored",
        "reasonrl filter scored --min-reward 1 -o kept",
        "reasonrl sft kept references --model ./smollm2 --lora-rank 8 --epochs 1 --batch-size 16 -o adapter",
        flags="--assume start_tokens=107 --assume start_keep=0.0078",
    )
    drawn, learnt = plans[1], plans[4]
    assert drawn["tokens"]["generated"] == pytest.approx(13_682, rel=0.25)
    assert drawn["seconds"] == pytest.approx(88.1, rel=0.25)
    assert learnt["tokens"]["learnt"] == pytest.approx(172 * 107.5, rel=0.25)
    assert learnt["seconds"] == pytest.approx(107.5 + 15, rel=0.25)  # and the start, which the log does not count


# For real


SMALL = {
    "LIMIT": "64", "K_PRETRAINED": "8", "ROUNDS": "1", "EVAL_LIMIT": "16", "EVAL_PASS_LIMIT": "8", "EVAL_K": "4",
}  # fmt: skip


@pytest.mark.slow
def test_a_small_table_runs_and_is_not_made_twice(environment, tmp_path):
    def table(**more):
        return subprocess.run(
            ["bash", ROOT / "recipes" / "table2.sh"],
            env=environment | SMALL | {"RUNS": "runs", "CELLS": "start ei"} | more,
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip

    done = table()
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "runs" / "table2" / "report.md").read_text().splitlines()
    assert report[0] == "# Table 2: mini from the pretrained model, preset tiny"
    assert report[2] == "| cell | maj@1 | maj@4 | rerank@4 | pass@4 |"
    assert [row.split(" | ")[0] for row in report[4:6]] == ["| prompted", "| EI"]
    assert all(cell for row in report[4:6] for cell in row.strip("| ").split(" | "))
    assert (tmp_path / "runs" / "table2" / "rows.png").read_bytes().startswith(b"\x89PNG")

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")}
    again = table()
    run = [line.split()[2] for line in again.stderr.splitlines() if line.startswith("+ ")]
    assert again.returncode == 0 and run == ["report"]
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")}

    # A cell that is missing is made; what is there with other settings is refused.
    (tmp_path / "runs" / "table2" / "metrics" / "mini.cell_EI.seed0.done").unlink()
    (tmp_path / "runs" / "table2" / "metrics" / "mini.cell_EI.seed0.jsonl").unlink()
    some = table()
    assert "-o runs/table2/metrics/mini.cell_EI.seed0.jsonl" in some.stderr and some.returncode == 0
    other = table(EVAL_K="2")
    assert other.returncode == 2 and "made with other settings" in other.stderr

    check = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "plan_check.py", ROOT / "recipes" / "table2.sh", "--within", "1000"],
        env=environment | SMALL | {"RUNS": "runs", "CELLS": "start ei", "PRESET": "tiny"},
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert check.returncode == 0, check.stderr
    for name in ("generated", "learnt"):
        row = next(line for line in check.stdout.splitlines() if line.startswith(f"| {name} |"))
        planned, measured = (int(cell.replace(",", "")) for cell in row.split(" | ")[1:3])
        assert planned == pytest.approx(measured, rel=0.25), name


def test_presets_are_variables_and_nothing_else():
    for preset in PRESETS:
        for line in Path(ROOT, "recipes", "presets", f"{preset}.sh").read_text().splitlines():
            assert line.strip().startswith(("#", ":", "if [", "else", "fi", '. "$here')) or not line.strip(), line


def test_an_unknown_preset_is_named(environment):
    done = by_recipe(environment, "table1", "huge")
    assert done.returncode == 2 and "there are: llama2-13b llama2-7b smollm2 tiny" in done.stderr
    assert os.path.isdir(ROOT / "recipes" / "presets")
