"""`benchmarks/plan_check.py`: a plan beside what a run of it left."""

import importlib.util
import json
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.fixture
def checked(environment, tmp_path):
    """plan_check on a recipe of two commands, with what a run of them would have left."""
    recipe = tmp_path / "recipe.sh"
    recipe.write_text(
        "#!/bin/sh\ncat <<'E'\n# s.done\nreasonrl sample --task mini --limit 100 --k 4 -o s\n"
        "# m.done\nreasonrl sft s --epochs 1 -o m\nE\n"
    )
    recipe.chmod(0o755)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "reasonrl.json").write_text("{}")

    def check(
        tokens=11_900, updates=((1, 10, 3_000), (2, 12, 3_200)), seconds="s.done\t10\nm.done\t25\n", key="update"
    ):  # fmt: skip
        meta = {"finished": True, "counts": {"tokens": tokens, "records": 400}, "arguments": {"temperature": 1}}
        (tmp_path / "s.meta.json").write_text(json.dumps(meta | {"tokens_per_second": 11_000}))
        names = (key, "seconds", "tokens_per_second")
        log = "".join(json.dumps(dict(zip(names, update, strict=True))) + "\n" for update in updates)
        (tmp_path / "m" / "metrics.jsonl").write_text(log)
        (tmp_path / "seconds.tsv").write_text(seconds)
        script = ROOT / "benchmarks" / "plan_check.py"
        return subprocess.run(
            [sys.executable, script, recipe, "--runs", tmp_path, "--within", "0.4", "--", "--assume", "padding=1.4"],
            env=environment, capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip

    return check


@pytest.mark.parametrize("key", ["update", "step"])  # a run of version 0.1 has the latter
def test_a_plan_that_came_true_passes(checked, key):
    done = checked(key=key)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| learnt | 37,800 | 38,400 | -2% |" in done.stdout


def test_nothing_measured_is_no_success(checked):
    done = checked(tokens=0)
    assert done.returncode == 1 and "| generated | 11,880 | 0 | +inf% |" in done.stdout
    done = checked(seconds="other.done\t10\n")
    assert done.returncode == 1 and "seconds.tsv has none of the recipe's parts" in done.stderr


def test_what_a_trainer_did_before_it_was_resumed_counts(checked):
    """Its log begins again: 10 s at 3,000 tokens a second, then 3 s at 2,800."""
    updates = ((1, 5, 2_900), (2, 10, 3_000), (3, 1.5, 2_500), (4, 3, 2_800))
    assert "| learnt | 37,800 | 38,400 | -2% |" in checked(updates=updates).stdout


@pytest.mark.parametrize(
    ("update", "evaluate", "updates", "epochs"),
    [("update", "evaluate", "updates", 2), ("step", "score", "steps", None)],  # the latter: version 0.1
)
def test_phases_of_ppo_are_read_from_old_logs_too(tmp_path, update, evaluate, updates, epochs):
    spec = importlib.util.spec_from_file_location("plan_check", ROOT / "benchmarks" / "plan_check.py")
    plan_check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plan_check)
    line = {"seconds": 10, "tokens_per_second": 2_260, "tokens": 1_000}
    line |= {f"{phase}_tokens_per_second": rate for phase, rate in (("rollout", 500), (evaluate, 250), ("update", 125))}
    (tmp_path / "metrics.jsonl").write_text(json.dumps({update: 1} | line) + "\n")
    marker = {updates: 1, "preset": "tiny", "arguments": {"epochs": epochs}}
    (tmp_path / "reasonrl.json").write_text(json.dumps(marker))
    phases = plan_check.measured({"command": f"reasonrl ppo --task mini -o {tmp_path}", "stage": "ppo"})
    assert phases["learnt"] == 22_600 and phases["generated"] == 1_000
    assert (phases["rollout"], phases["evaluate"], phases["update"]) == (2, 4, 8)
    assert phases["passed"] == pytest.approx(22_600 / 1.13 / 2)
