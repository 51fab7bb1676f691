"""What the recipes of tables and figures decide before any command runs; the commands are a stub that does nothing."""

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
        ({}, ["maj@1", "maj@96", "rerank@96", "pass@96"]),
        ({"EVAL_K": "1"}, ["maj@1", "pass@1"]),
        ({"EVAL_PASS_LIMIT": "0"}, ["maj@1"]),
    ],
)
def test_a_table_asks_for_the_metrics_that_its_cells_will_have(recipe, variables, metrics):
    assert reported(recipe("table2", CELLS="start ei", **variables)) == metrics
    for figure in ("figure_sft", "figure_model_size"):
        assert reported(recipe(figure, **variables)) == [
            name for name in metrics if name[:3] != "rer" and name != "maj@96"
        ]


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
