"""What the README promises to run, runs."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def marked(name):
    """The command lines under `<!-- name -->` in the README."""
    block = re.search(rf"<!-- {name} -->\n```sh\n(.*?)```", README, re.S)
    assert block, f"the README has no block marked {name}"
    return block[1].strip().splitlines()


def console(text):
    """The (command, shown output) pairs of the console blocks of a page."""
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.M | re.S)
    for entry in itertools.chain(*(block.removeprefix("$ ").split("\n$ ") for block in blocks)):
        command, shown = re.fullmatch(r"([^\n]*(?:\n> [^\n]*)*)\n?(.*)", entry, re.S).groups()
        yield command.replace("\n> ", "\n"), shown.strip()


def agrees(line, shown):
    """Whether a line is the one shown. On another processor rounding tips a few draws, so numbers in a summary may be
    a little off; what a model says may not."""
    if line == shown or not shown.startswith(("reasonrl ", "{")):
        return line == shown
    number = r"\d+(?:\.\d+)?"
    ours, theirs = (re.findall(number, text) for text in (line, shown))
    if re.sub(number, "", line) != re.sub(number, "", shown):
        return False
    near = (abs(float(a) - float(b)) <= max(0.06, 0.05 * float(b)) for a, b in zip(ours, theirs, strict=True))
    return all(near)


def shell(command, **more):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], env=environment, capture_output=True, text=True, **more
    )


def test_first_screen_holds_two_one_line_commands():
    screen = README.splitlines()[:40]
    for name in ("demo", "tests"):
        assert len(marked(name)) == 1 and f"<!-- {name} -->" in screen


def test_ci_runs_the_readmes_test_command():
    reading = re.search(r"^command=\$\((.*)\)$", (ROOT / ".ci" / "run").read_text(), re.M)[1]
    assert [shell(reading, cwd=ROOT).stdout.strip()] == marked("tests")


def test_a_shown_line_may_be_off_by_little_and_in_numbers_only():
    kept = "reasonrl filter: kept 396 of 4800 samples"
    assert agrees(kept, kept) and agrees(kept.replace("396", "401"), kept)
    assert not agrees(kept.replace("396", "420"), kept)
    assert not agrees(kept.replace("kept", "left"), kept)
    assert not agrees('{"pass@1":0.26,"pass@8":0.76}', '{"pass@1":0.34,"pass@8":0.76}')
    assert not agrees("Tom has 36 - 11 = 26 dollars.", "Tom has 36 - 11 = 25 dollars.")


def test_console_blocks_are_read_as_commands_and_output():
    pairs = list(console(README))
    assert len(pairs) == 7 and all(command.startswith(("reasonrl ", "head ", "for ")) for command, _ in pairs)
    assert pairs[1][1] == "" and pairs[5] == ("reasonrl sft kept.jsonl -o policy", "policy")
    assert pairs[6][0].splitlines()[-1] == "done" and len(pairs[6][1].splitlines()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/pipeline.md"])
def test_the_pipeline_prints_what_is_shown(tmp_path, page):
    for command, shown in console((ROOT / page).read_text()):
        done = shell(command, cwd=tmp_path)
        assert done.returncode == 0, (command, done.stderr)
        printed = (done.stdout or done.stderr).strip() if shown else ""
        lines = list(zip(printed.splitlines(), shown.splitlines(), strict=True))
        assert all(agrees(line, expected) for line, expected in lines), f"{command}\n{printed}\nbut shown is\n{shown}"


@pytest.mark.slow
def test_the_pipeline_of_the_contract_counts_correct_samples(tmp_path):
    line = (
        "reasonrl data mini --limit 200 | reasonrl sample --k 8 | reasonrl score --reward exact"
        " | jq -c 'select(.reward == 1)' | wc -l"
    )
    assert marked("pipelines") == [line]
    shown = int(re.search(r"this one prints (\d+):\n\n<!-- pipelines -->", README)[1])
    done = shell(line, cwd=tmp_path)
    assert done.returncode == 0 and abs(int(done.stdout) - shown) <= 0.05 * shown, done


@pytest.mark.slow
def test_the_recipe_runs_stops_and_goes_on(tmp_path):
    """A small Expert Iteration, killed in the middle and started again, redoing nothing that was finished."""
    environment = os.environ | {
        "REASONRL": f"{sys.executable} -m reasonrl", "OUT": str(tmp_path / "run"),
        "ROUNDS": "1", "LIMIT": "150", "K": "4", "EVAL_LIMIT": "60", "EVAL_PASS_LIMIT": "20", "EVAL_K": "4",
    }  # fmt: skip
    recipe = ["bash", ROOT / "recipes" / "expert_iteration.sh"]
    first = subprocess.Popen(recipe, env=environment, stderr=subprocess.PIPE, text=True)
    for line in first.stderr:
        if line.startswith("+ reasonrl sft"):
            break
    subprocess.run(["pkill", "-KILL", "-P", str(first.pid)], check=False)
    first.kill()
    first.wait()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("*.jsonl")}
    assert len(finished) >= 7
    second = subprocess.run(recipe, env=environment, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())
    assert "round1.samples.jsonl is complete" in second.stderr
    assert "| ei |" in (tmp_path / "run" / "report" / "report.md").read_text()
    for name in ("by-round.png", "pass-at-k.png"):
        assert (tmp_path / "run" / "report" / name).stat().st_size > 5000


@pytest.mark.slow
def test_demo_tells_the_story(tmp_path):
    environment = os.environ | {"LIMIT": "100", "K": "4", "EVAL_LIMIT": "50", "EVAL_PASS_LIMIT": "20", "EVAL_K": "4"}
    done = subprocess.run(
        [sys.executable, "-m", "reasonrl", "demo", "--rounds", "1", "-o", str(tmp_path / "demo")],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# Expert Iteration on mini") and "maj@1" in done.stdout
    for text in ("Expert Iteration", "+ reasonrl sample", "+ reasonrl sft", "by-round.png", "What to try next"):
        assert text in done.stderr
