"""Settings are declared once: what reads them follows, and the order of their sources holds."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from reasonrl import cli, options
from reasonrl.errors import UsageError
from reasonrl.settings import STAGES, PpoSettings, SampleSettings, SftSettings, presets
from reasonrl.settings.declare import GROUPS, PRESET, declared
from reasonrl.settings.resolve import Given, resolve

EVERY = [(stage, one) for stage in STAGES.values() for one in declared(stage).values()]
TINY = lambda model: "tiny" if model == "tiny" else "paper"


def parse(stage, line, **variables):
    with options.with_environment(variables):
        return options.parse(stage, line.split(), TINY)


@pytest.mark.parametrize(("stage", "one"), EVERY, ids=[f"{stage.STAGE}-{one.name}" for stage, one in EVERY])
def test_every_setting_has_a_help_of_one_sentence_and_a_group_that_help_shows(stage, one):
    assert one.about.help.endswith(".") and one.about.help.count("\n") == 0
    assert one.is_argument or one.about.group in GROUPS
    if not one.is_required and one.default is not PRESET:
        one.check(one.default)


def test_presets_have_exactly_the_settings_that_want_one():
    for name, stage in STAGES.items():
        wanting = {one.name for one in declared(stage).values() if one.default is PRESET}
        for values in presets.of_stage(name).values():
            assert values.keys() == wanting
        assert presets.of_stage(name).keys() == (set(presets.NAMES) if wanting else set())


def test_the_presets_are_the_paper_s_and_the_bundled_model_s():
    assert (SftSettings().epochs, SftSettings().batch_size, SftSettings().lr) == (4, 128, 2e-5)
    assert SftSettings().final_learning_rate == pytest.approx(2e-7)
    tiny = PpoSettings(preset="tiny")
    assert (tiny.samples, tiny.batch_size, tiny.k, tiny.epochs, tiny.lr, tiny.updates) == (24_576, 512, 4, 2, 3e-4, 48)


# The order of sources


def test_each_source_wins_over_those_before_it(tmp_path):
    (tmp_path / "c.toml").write_text("[ppo]\nk = 8\nkl = 0.1\n")
    config = f"--config {tmp_path}/c.toml"
    assert PpoSettings().k == 4
    steps = [
        ("--model other", {}, 4, "preset paper"),
        ("", {}, 4, "preset tiny"),
        (config, {}, 8, f"{tmp_path}/c.toml"),
        (config, {"REASONRL_PPO_K": "16"}, 16, "environment"),
        (f"{config} --k 32", {"REASONRL_PPO_K": "16"}, 32, "command line"),
    ]
    for line, variables, k, origin in steps:
        settings = parse(PpoSettings, line, **variables)
        assert (settings.k, settings.origins["k"]) == (k, origin)
    assert parse(PpoSettings, "").kl == 0.05 and "kl" not in parse(PpoSettings, "").origins
    assert parse(PpoSettings, config).kl == 0.1


def test_the_preset_itself_may_come_from_anywhere(tmp_path):
    (tmp_path / "c.toml").write_text('preset = "paper"\n')
    assert parse(SftSettings, "").preset == "tiny"
    assert parse(SftSettings, f"--config {tmp_path}/c.toml").epochs == 4
    assert parse(SftSettings, f"--config {tmp_path}/c.toml", REASONRL_SFT_PRESET="tiny").epochs == 2
    assert parse(SftSettings, "--preset paper", REASONRL_SFT_PRESET="tiny").epochs == 4
    assert parse(SftSettings, "", REASONRL_MODEL="another").preset == "paper"


def test_a_variable_of_the_stage_counts_before_the_one_that_all_stages_share():
    both = {"REASONRL_MODEL": "shared", "REASONRL_SFT_MODEL": "own"}
    assert parse(SftSettings, "", **both).model == "own"
    assert parse(SampleSettings, "", **both).model == "shared"
    assert parse(SftSettings, "--model given", **both).model == "given"


def test_a_run_follows_the_order_and_its_sidecar_says_where_values_came_from(sh, tmp_path):
    (tmp_path / "c.toml").write_text("[sample]\nk = 2\nmax-tokens = 8\n[score]\nanswer = 'flexible'\n")
    done = sh("reasonrl sample --limit 2 --config c.toml -o a.jsonl -q", REASONRL_SAMPLE_MAX_TOKENS="4")
    assert done.code == 0, done.err
    records = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len(records) == 4 and max(len(record["completion_ids"]) for record in records) <= 4
    about = json.loads((tmp_path / "a.jsonl.meta.json").read_text())
    assert about["arguments"]["k"] == 2 and about["arguments"]["temperature"] == 1.0
    assert about["origins"] == {
        "k": "c.toml", "max_tokens": "environment", "limit": "command line", "output": "command line"
    }  # fmt: skip


def test_a_run_may_be_resumed_with_the_same_values_from_another_source(sh, tmp_path):
    (tmp_path / "c.toml").write_text("epochs = 2\nlr = 1e-3\n")
    sh("reasonrl sample --limit 4 -o s.jsonl -q && reasonrl score s.jsonl -o x.jsonl -q")
    assert sh("reasonrl sft x.jsonl -o policy -q").out == b"policy\n"
    again = sh("reasonrl sft x.jsonl --config c.toml --resume -o policy")
    assert (again.code, again.out) == (0, b"policy\n") and "is complete" in again.err
    other = sh("reasonrl sft x.jsonl --epochs 3 --resume -o policy")
    assert other.code == 2 and "epochs was 2 and is 3" in other.err


# Files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("k = 0", "--k 0: want 1 or more"),
        ("k = 'four'", "k = 'four': want a whole number"),
        ("k = true", "k = True: want a whole number"),
        ("temperature = '1'", "temperature = '1': want a number"),
        ("logprobs = 1", "logprobs = 1: want true or false"),
        ("backend = 'sglang'", "backend = 'sglang': want one of auto, hf, vllm, openai"),
        ("stop = [1]", "stop = 1: want text"),
        ("temprature = 1", "sample has no setting 'temprature'; did you mean temperature?"),
        ("zzz = 1", "sample has no setting 'zzz' (see `reasonrl sample --help`)"),
        ("problems = ['x']", "sample has no setting 'problems'"),
        ("[samples]\nk = 1", "[samples] is no stage; there are data, sample"),
        ("k = ", "not TOML"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_what_is_wrong_in_it(tmp_path, text, message):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(UsageError) as error:
        parse(SampleSettings, f"--config {tmp_path}/c.toml")
    assert str(error.value).startswith(f"--config {tmp_path}/c.toml: {message}")
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(sh):
    done = sh("reasonrl sample --config nowhere.toml")
    assert (done.code, done.err) == (2, "reasonrl sample: --config nowhere.toml: no such file or directory\n")


def test_one_file_serves_a_pipeline(tmp_path):
    (tmp_path / "c.toml").write_text("seed = 3\n[sample]\nk = 2\nstop = 'x'\n[sft]\nmax-grad-norm = 2\n")
    config = f"--config {tmp_path}/c.toml"
    sample, sft = parse(SampleSettings, config), parse(SftSettings, config)
    assert (sample.k, sample.seed, sample.stop) == (2, 3, ("x",))
    assert (sft.seed, sft.max_grad_norm) == (3, 2.0)


def test_bounds_hold_for_every_source():
    with pytest.raises(UsageError, match="--top-p 2: want 0 to 1"):
        SampleSettings(top_p=2)
    with pytest.raises(UsageError, match=r"--k 0: want 1 or more"):
        resolve(SampleSettings, {"k": Given(0, "command line")})
    with pytest.raises(UsageError, match=r"--lr nan"):
        SftSettings(lr=float("nan"))


# Help


@pytest.mark.parametrize("stage", STAGES)
def test_help_shows_every_flag_in_groups_within_80_columns(sh, stage):
    page = sh(f"reasonrl {stage} --help", COLUMNS="200").out.decode()
    options_part = page[page.index("\n\n", page.index("Examples:")) :]
    assert max(map(len, options_part.splitlines())) <= 80
    assert not re.search(r"<\w|>=|<=", options_part)
    for one in declared(STAGES[stage]).values():
        for flag in one.flags:
            assert flag in options_part
    if stage == "ppo":
        groups = [line[:-1] for line in options_part.splitlines() if line.endswith(":") and not line.startswith(" ")]
        wanted = ["Rollouts", "Reward", "Loss", "Critic", "Optimiser", "Checkpoints", "Output"]
        assert [group for group in groups if group in wanted] == wanted


def test_every_stage_takes_its_settings_and_nothing_else():
    assert {cli.settings_class(run) for run in cli.STAGES.values()} == set(STAGES.values())
    assert list(cli.STAGES) == list(STAGES)


# One place


@pytest.fixture
def changed(tmp_path):
    """`changed(file, old, new)`: a copy of the package with one line changed; gives what runs it."""

    def make(file, old, new):
        copy = tmp_path / "copy"
        shutil.copytree(ROOT / "reasonrl", copy / "reasonrl", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "tools", copy / "tools")
        (copy / "docs").mkdir()
        target = copy / "reasonrl" / "settings" / file
        text = target.read_text()
        assert text.count(old) == 1
        target.write_text(text.replace(old, new))

        def run(*words, stdin=""):
            done = subprocess.run(
                [sys.executable, *words], cwd=copy, input=stdin, capture_output=True, text=True, check=True,
                env=os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip
            return done.stdout

        return copy, run

    return make


def test_a_default_changed_in_its_one_place_changes_help_reference_plan_and_run(changed):
    copy, run = changed("sampling.py", 'setting(1, "Samples per problem."', 'setting(3, "Samples per problem."')
    assert "Samples per problem. [default: 3]" in run("-m", "reasonrl", "sample", "--help")
    run("tools/cli_reference.py")
    assert "| `-k`, `--k N` | Samples per problem. | `3` (1 or more) |" in (copy / "docs" / "cli.md").read_text()
    planned = run("-m", "reasonrl", "plan", "-q", stdin="reasonrl sample --task mini --limit 5\n")
    assert json.loads(planned)["samples"] == 15
    sampled = run("-m", "reasonrl", "sample", "-q", "--task", "mini", "--limit", "5", "--max-tokens", "4")
    assert len(sampled.splitlines()) == 15


def test_a_preset_changed_in_its_one_place_changes_help_reference_plan_and_run(changed):
    copy, run = changed("presets.toml", "samples = 24_576", "samples = 1024")
    assert "paper 100000, tiny 1024" in " ".join(run("-m", "reasonrl", "ppo", "--help").split())
    run("tools/cli_reference.py")
    assert "`paper 100000, tiny 1024` (1 or more)" in (copy / "docs" / "cli.md").read_text()
    planned = run("-m", "reasonrl", "plan", "-q", stdin="reasonrl ppo --task mini -o x\n")
    assert json.loads(planned)["samples"] == 1024
    # The run itself: two updates of 512 rollouts, cut short by a problem that does not fit, say so first.
    words = ("-m", "reasonrl", "ppo", "--task", "mini", "--max-tokens", "2", "--minibatches", "1", "--epochs", "1")
    run(*words, "-o", "x")
    lines = (copy / "x" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["samples"] for line in lines] == [512, 1024]
