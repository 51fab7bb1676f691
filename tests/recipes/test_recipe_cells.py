"""What the recipes of tables and figures decide before any command runs; the commands are a stub that does nothing."""

import os
import subprocess
from itertools import pairwise

import pytest
from conftest import ROOT


@pytest.fixture
def recipe(tmp_path, environment):
    """`recipe("table1", CELLS="ei")`: a recipe with `true` for `reasonrl`, in `tmp_path`."""

    def run(name, *flags, **variables):
        defaults = {"PRESET": "tiny", "SEEDS": "0", "RUNS": "runs", "REASONRL": "true", "MODEL_SIZES": "1=tiny 2=tiny"}
        return subprocess.run(
            ["bash", ROOT / "recipes" / f"{name}.sh", *flags], env=environment | defaults | variables,
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip

    return run


def reported(done):
    """The metrics that `report` is asked for."""
    assert done.returncode == 0, done.stderr
    words = done.stderr.splitlines()[-1].split()
    assert words[:3] == ["+", "reasonrl", "report"]
    return [word for before, word in pairwise(words) if before == "--metric"]


@pytest.mark.parametrize(
    ("variables", "metrics"),
    [
        ({}, ["maj@1", "maj@96", "rerank@96", "pass@96", "pass@1"]),
        ({"EVAL_K": "1"}, ["maj@1", "pass@1"]),
        ({"EVAL_PASS_LIMIT": "0"}, ["maj@1"]),
    ],
)
def test_a_table_asks_for_the_metrics_that_its_cells_will_have(recipe, variables, metrics):
    assert reported(recipe("table2", CELLS="start ei", **variables)) == metrics
    coverage = [name for name in metrics if name.startswith("pass")][:1]  # of the largest k
    for figure in ("figure_sft", "figure_model_size"):
        assert reported(recipe(figure, **variables)) == ["maj@1", *coverage]


def test_a_figure_that_needs_samples_says_so_before_it_trains(recipe, tmp_path):
    done = recipe("figure_diversity", EVAL_PASS_LIMIT="0")
    assert done.returncode == 2 and "EVAL_PASS_LIMIT must be above 0" in done.stderr and not list(tmp_path.iterdir())
    assert reported(recipe("figure_diversity", EVAL_K="8"))[-1] == "pass@8"


def test_settings_of_a_cell_that_only_its_recipe_knows_are_part_of_it(recipe, tmp_path):
    assert recipe("table2", CELLS="ei").returncode == 0
    mark = tmp_path / "runs" / "mini-pretrained" / "seed0" / "ei" / "done"
    assert "TEMPERATURE" not in mark.read_text() and "MIN_REWARD" not in mark.read_text()
    assert recipe("table2", CELLS="ei").returncode == 0
    for setting in ({"TEMPERATURE": "0.5"}, {"MIN_REWARD": "0.3"}):
        other = recipe("table2", CELLS="ei", **setting)
        assert other.returncode == 2 and f"< {'='.join(*setting.items())}" in other.stderr


def test_flags_of_a_plan_count_and_win_over_the_presets(recipe):
    def learnt(*flags):
        done = recipe("table2", *flags, CELLS="ei", PLAN="1", REASONRL="reasonrl")
        assert done.returncode == 0, done.stderr
        return done.stderr.splitlines()[-1]

    assert learnt("--assume", "keep=0.2") == learnt() != learnt("--assume", "keep=0.4")
    assert learnt("--device", "h100").endswith("GPU-hours on h100")


def test_a_preset_with_one_size_says_so(recipe, tmp_path):
    done = recipe("figure_model_size", PRESET="smollm2", PLAN="lines", MODEL_SIZES="")
    assert done.returncode == 0 and done.stderr.count("\n") == 1 and "preset smollm2 has one size" in done.stderr
    assert "tiny" not in done.stdout
    assert not recipe("figure_model_size", PLAN="lines").stderr


def test_an_empty_orm_is_one_that_the_recipe_makes(recipe):
    trained = lambda **settings: recipe("table1", CELLS="ei-orm", PLAN="lines", **settings).stdout.count(
        "\nreasonrl orm "
    )
    assert (trained(), trained(ORM_SFT="")) == (0, 1)


def test_jobs_make_every_row_once_and_the_report_as_rows_one_after_another_would(recipe, tmp_path):
    made = lambda jobs: recipe("table1", JOBS=jobs, RUNS=f"runs{jobs}")
    one, three = made("1"), made("3")
    assert three.returncode == 0, three.stderr
    last = lambda done: done.stderr.splitlines()[-1]
    assert last(three).replace("runs3/", "runs1/") == last(one)
    marks = lambda jobs: sorted(
        line.split("\t")[0].removeprefix(f"runs{jobs}/") for line in (tmp_path / f"runs{jobs}/seconds.tsv").open()
    )
    assert marks("3") == marks("1")
    # RCRL starts from Expert Iteration's last policy: one job makes both, and the log has them in that order
    log = (tmp_path / "runs3/mini-sft/seed0/ei.log").read_text()
    assert log.index("runs3/mini-sft/seed0/ei/round2 ") < log.index("reasonrl rcrl")
    assert "seed 0, ei rcrl: done" in three.stderr.splitlines()


def test_a_row_that_fails_leaves_the_others_and_its_log_says_why(recipe, tmp_path):
    stage = tmp_path / "stage"
    stage.write_text('#!/bin/sh\ncase "$*" in *ppo-dense*) echo out of luck >&2; exit 3;; esac\n')
    stage.chmod(0o755)
    done = recipe("table1", JOBS="2", REASONRL=str(stage), CELLS="ppo-dense ppo ei")
    assert done.returncode == 1 and "a row has failed" in done.stderr.splitlines()[-1]
    assert "seed 0, ppo-dense: failed: out of luck (runs/mini-sft/seed0/ppo-dense.log)" in done.stderr.splitlines()
    assert {"seed 0, ppo: done", "seed 0, ei: done"} <= set(done.stderr.splitlines())
    done = recipe("table1", JOBS="2", CELLS="ppo-dense ppo ei")
    assert done.returncode == 0 and "report" in done.stderr.splitlines()[-1], done.stderr


def test_every_round_of_expert_iteration_draws_with_a_seed_of_its_own(recipe):
    lines = recipe("table2", CELLS="ei", PLAN="lines", SEEDS="7", ROUNDS="3").stdout.splitlines()
    seeds = [
        line.split("--seed ")[1].split()[0] for line in lines if "reasonrl sample" in line and "--split" not in line
    ]
    assert seeds == ["7", "107", "207"]


def test_other_worked_examples_are_another_prompt(recipe, tmp_path):
    stage = tmp_path / "stage"  # two problems, whatever it is asked
    problem = '{"question": "?", "reference": "#### 1"}'
    stage.write_text(f"#!/bin/sh\n[ $1 != data ] || printf '{problem}\\n{problem}\\n'\n")
    stage.chmod(0o755)
    shots = lambda number: recipe("table2", CELLS="ei", REASONRL=str(stage), SHOTS=number)
    assert shots("2").returncode == 0
    other = shots("4")
    assert other.returncode == 2 and "shots4.txt" in other.stderr and "made with other settings" in other.stderr


def test_a_recipe_runs_from_its_own_directory(recipe, tmp_path):
    variables = {"REASONRL": "true", "RUNS": str(tmp_path / "r"), "JOBS": "2", "PRESET": "tiny"}
    done = subprocess.run(
        ["bash", "table2.sh"], env=os.environ | variables, cwd=ROOT / "recipes", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
