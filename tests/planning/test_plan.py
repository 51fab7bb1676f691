"""`reasonrl plan`, and the recipes of the tables and figures as plans: every command parses, every input is made."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from reasonrl.planning import devices, shapes
from reasonrl.planning.world import LABEL, LENGTHS

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
        done = by_recipe(environment, recipe, "tiny")
        assert done.returncode == 0, done.stderr
        plans = [json.loads(line) for line in done.stdout.splitlines()]
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
    prompt, reference = LENGTHS["mini", "tiny"]
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


MINI, REFERENCE = LENGTHS["mini", "tiny"]


def test_ppo_scores_and_learns_prompts_too(sh):
    """Seconds and memory of a CPU: as before on mini, from whose runs the rates come; a long prompt costs its share."""
    ppo = "reasonrl ppo --task mini --samples 1024 --batch-size 512 --epochs 2 -o p"
    plain, long = (planned(sh, f"{ppo} {more}", flags="--assume exemplars=3")[0] for more in ("", "--prompt x.txt"))
    assert plain["seconds"] == pytest.approx(10.5 + 1024 * REFERENCE * (1 / 8_100 + 1 / 6_800 + 2 / 4_700), rel=0.001)
    shown = 3 * (MINI + REFERENCE)
    assert long["seconds"] - plain["seconds"] == pytest.approx(1024 * shown * (1 / 15_450 + 2 / 10_680), rel=0.01)
    # Weights, gradients, moments, the reference, and the rollouts of 512 rows; or a microbatch of 2,048 tokens.
    rollouts = 512 * (MINI + 256) * (2 * 2 * 128 * 4 + 2304 / 4)
    assert plain["memory_gb"] == pytest.approx((20 * 672_384 + rollouts) / 1e9, abs=0.01)
    few = planned(sh, "reasonrl ppo --task gsm8k --model smollm2 --samples 8 --batch-size 8 -o q")[0]
    microbatch = devices.device("cpu2").activation_memory(shapes.of_model("smollm2"), 2048, False)
    assert few["memory_gb"] == pytest.approx((20 * devices.SMOLLM2 + microbatch) / 1e9, abs=0.01)


def test_ppo_on_a_gpu_is_drawn_in_process(sh):
    """Every update waits for its longest rollout; the reward model is held and read in fp32."""
    sft = "reasonrl sft x --model smollm2 -o m"
    ppo = "reasonrl ppo --task gsm8k --model m --samples 10240 --batch-size 512 --max-tokens 256 -o p"
    runs = [(ppo, ""), (ppo, "--assume longest=128"), (f"{ppo} --reward orm --orm Llama-2-7b", "")]
    plans = [
        planned(sh, "reasonrl sample --task gsm8k -o x", sft, line, flags=f"--device h100 {flags}")[2]
        for line, flags in runs
    ]
    pass_seconds = 30 * devices.FORWARD_LAUNCH
    assert plans[0]["seconds"] - plans[1]["seconds"] == pytest.approx(20 * 128 * pass_seconds, rel=0.01)
    llama, (question, reference) = shapes.of_model("Llama-2-7b").parameters, LENGTHS["gsm8k", "smollm2"]
    scored = 10240 * (question + reference)
    work = 2 * llama * scored / (67e12 * 0.5) + scored / (1 << 16) * 32 * devices.FORWARD_LAUNCH
    assert plans[2]["seconds"] - plans[0]["seconds"] == pytest.approx(work, rel=0.01)
    assert plans[2]["memory_gb"] > 4 * llama / 1e9


def test_a_reward_model_scores_in_fp32(sh):
    sample = "reasonrl sample --task svamp --split test --limit 200 --k 96 --model smollm2 -o s"
    lines = [sample] + [
        f"reasonrl score s --reward orm --orm smollm2 --dtype {how} -o {how}" for how in ("fp32", "bf16")
    ]
    _, exact, half = planned(sh, *lines, flags="--device h100")
    read = exact["tokens"]["read"]
    assert exact["seconds"] - half["seconds"] == pytest.approx(
        2 * devices.SMOLLM2 * read / 0.5 * (1 / 67e12 - 1 / 989e12), rel=0.02
    )
    assert exact["memory_gb"] - half["memory_gb"] == pytest.approx(2 * devices.SMOLLM2 / 1e9, abs=0.01)


def test_exemplars_are_read_by_who_is_shown_them(sh):
    """A sample's prompt is not what sft, orm and a reward model read; what PPO learned with, it is evaluated with."""
    prompt = "--prompt shots.txt"
    plans = planned(
        sh,
        f"reasonrl sample --task mini --limit 100 {prompt} -o s",
        "reasonrl score s --reward orm -o c",
        "reasonrl sft c --epochs 1 -o sft",
        "reasonrl orm c --epochs 1 --held-out 0.5 -o orm",
        f"reasonrl ppo --task mini {prompt} --samples 512 --reward orm -o ppo",
        "reasonrl sample --task mini --split test --limit 100 --model ppo -o t",
        "reasonrl sample --task mini --split test --limit 100 --model ppo --prompt plain -o plain",
        "reasonrl sample --task mini --split test --limit 100 --model sft -o u",
        f"reasonrl sft c --epochs 1 {prompt} -o shown",
        flags="--assume exemplars=2 --assume padding=1",
    )
    shown, whole = MINI + 2 * (MINI + REFERENCE), MINI + REFERENCE
    read, learnt = ([plan["tokens"][name] for plan in plans] for name in ("read", "learnt"))
    assert read[0] == pytest.approx(100 * shown, abs=1) and read[1] == pytest.approx(100 * whole, abs=1)
    assert learnt[2] == pytest.approx(100 * whole, abs=1) and read[3] == learnt[3] == pytest.approx(50 * whole, abs=1)
    assert read[4] == pytest.approx(512 * (2 * (shown + REFERENCE) + whole), abs=1)
    assert read[5] == read[0] and read[6] == read[7] == pytest.approx(100 * MINI, abs=1)
    assert learnt[8] == pytest.approx(100 * (shown + REFERENCE), abs=1)


def test_references_are_as_long_as_the_model_reads_them(sh):
    lines = ["reasonrl data gsm8k --limit 100 -o r"]
    lines += [f"reasonrl sft r --epochs 1 --model {model} -o {model}" for model in ("tiny", "smollm2")]
    plans = planned(sh, *lines, flags="--assume padding=1")
    for plan, model in zip(plans[1:], ("tiny", "smollm2"), strict=True):
        assert plan["tokens"]["learnt"] == pytest.approx(100 * sum(LENGTHS["gsm8k", model]), abs=1)


def test_rcrl_draws_and_learns_what_was_measured(sh):
    """docs/results/rcrl-mini.md: 4,000 × 4 solutions, four completions of a prefix, twelve epochs, by the preset.
    The tokens learnt are those of seed 1's last line of metrics, 1,973 s at 7,558 a second."""
    line = "reasonrl rcrl --task mini --limit 4000 --k 4 --labels tokens --epochs 12 -o r"
    plan = planned(sh, line, flags="--assume prefixes=2.2 --assume rest=0.39 --assume learnt=0.78")[
        0
    ]  # as in the preset
    assert plan["samples"] == pytest.approx(156_000, rel=0.02)
    assert plan["tokens"]["generated"] == pytest.approx(2_095_000, rel=0.02)
    assert plan["tokens"]["learnt"] == pytest.approx(14_912_000, rel=0.05)
    assert plan["tokens"]["read"] == pytest.approx(2_277_000, rel=0.1)


def test_rcrl_labels_in_slices(sh):
    """On a GPU each slice of 512 solutions is drawn, and then completed, at the pace of its longest."""
    line = "reasonrl rcrl --task gsm8k --limit 1024 --solutions 4 --k 2 --model smollm2 --max-tokens 200 --save-data d"
    plan = planned(sh, line, flags="--device h100 --assume start_tokens=50")[0]
    launching = 8 * 2 * 200 * 30 * devices.FORWARD_LAUNCH  # 8 slices, drawn and completed
    assert launching < plan["seconds"] - 15 < 1.1 * launching


def test_a_conditional_policy_reads_its_solutions_again(sh):
    """In each turn but the first: the prompt, the steps so far and their labels."""
    rcrl = "reasonrl rcrl --task mini --limit 10 --labels tokens -o tokens"
    plans = planned(
        sh,
        "reasonrl data mini --limit 10 -o d",
        "reasonrl sft d -o sft",
        rcrl,
        rcrl.replace("tokens", "text"),
        *(f"reasonrl sample --task mini --limit 30 --k 10 --model {by} -o {by}.s" for by in ("sft", "tokens", "text")),
        flags="--assume prefixes=2",
    )
    unconditional, *conditional = plans[4:]
    for plan, label in zip(conditional, (1, LABEL["tiny"]), strict=True):
        again = 300 * 2 * (MINI + (REFERENCE + 3 * label) / 2)
        assert plan["tokens"]["read"] - unconditional["tokens"]["read"] == pytest.approx(again, abs=1)
        assert plan["tokens"]["generated"] == unconditional["tokens"]["generated"]
        assert plan["seconds"] - unconditional["seconds"] == pytest.approx(again / 33_000, abs=0.1)


def test_a_prompt_that_fills_the_context_does_not_fit(sh):
    line = "reasonrl sample --task gsm8k --limit 10 --model tiny --prompt shots.txt -o s"
    done = sh("reasonrl plan --assume exemplars=2", stdin=f"{line}\n".encode())
    assert "<stdin>:1: a prompt of 568 tokens does not fit the model's context of 512" in done.err
    assert done.code == 0 and not done.records[0]["fits"]
    assert planned(sh, line, flags="--assume exemplars=1")[0]["fits"]
    tight = planned(sh, line, flags="--assume exemplars=1 --assume start_tokens=250")[0]
    assert tight["tokens"]["generated"] == pytest.approx(10 * (512 - 109.3 - 229.5), abs=1)


def test_what_was_made_before_is_not_paid_for_again(sh):
    line = "reasonrl sample --task mini --k 96 --resume -o s.jsonl"
    once, again = planned(sh, line, line)
    assert once["seconds"] > 10 and again["seconds"] == again["samples"] == 0


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("reasonrl sample --kk 8", "sample: No such option: --kk"),
        ("reasonrl sample --k 0", "--k 0: want 1 or more"),
        ("reasonrl frobnicate", "no stage 'frobnicate'"),
        ("reasonrl score s.jsonl", "s.jsonl: no earlier command makes it"),
        (
            "reasonrl sample --task mini --model ./own",
            "./own: no earlier command makes it, and its size is not known",
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


# Plans against runs


def test_a_round_of_smollm2_is_planned_as_it_was_measured(sh):
    """Within 25% of docs/results/smollm2-gsm8k.md, made when 8,192 tokens were the default of a pass."""
    settings = "--lora-rank 8 --epochs 1 --batch-size 16 --batch-tokens 8192"
    plans = planned(
        sh,
        "reasonrl data gsm8k --limit 64 -o references",
        "reasonrl sample --task gsm8k --limit 32 --k 4 --max-tokens 128 --model ./smollm2 -o samples",
        "reasonrl score samples -o scored",
        "reasonrl filter scored --min-reward 1 -o kept",
        f"reasonrl sft kept references --model ./smollm2 {settings} -o adapter",
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
            env=environment | SMALL | {"RUNS": "runs", "CELLS": "start ei", "JOBS": "1"} | more,
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip

    done = table(JOBS="2")
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "runs" / "table2" / "report.md").read_text().splitlines()
    assert report[0] == "# Table 2: mini from the pretrained model, preset tiny"
    assert report[2] == "| cell | maj@1 | maj@4 | rerank@4 | pass@4 | pass@1 |"
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
