"""The command line itself: help, exit codes, what is imported, what a person sees on stderr."""

import ast
import os
import pty
import re
import resource
import subprocess
import sys

import pytest
from conftest import lines, sample_record

from reasonrl import cli, options
from reasonrl.settings import STAGES
from reasonrl.settings.declare import declared
from reasonrl.settings.resolve import resolve

HEAVY = {"torch", "transformers", "numpy", "matplotlib", "rich", "accelerate", "peft", "datasets", "zstandard"}
SCORED = lines(*(sample_record(n, correct=n % 2 == 0, extracted=str(n)) for n in range(8)))


def imported(environment, tmp_path, *words, stdin=b"") -> set[str]:
    """Which of the heavy packages a command line brings in."""
    code = (
        "import sys; from reasonrl import cli; code = cli.run(sys.argv[1:]);"
        "sys.stdout.flush(); print(code, sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        input=stdin,
        capture_output=True,
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    code, _, modules = done.stderr.decode().splitlines()[-1].partition(" ")
    assert code == "0", done.stderr.decode()
    return HEAVY & set(ast.literal_eval(modules))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--help", set()),
        ("--version", set()),
        *((f"{stage} --help", set()) for stage in cli.STAGES),
        ("data mini --limit 3", set()),
        ("score --reward exact", set()),
        ("score -o out.jsonl", set()),
        ("filter --min-reward 1 --dedup equations", set()),
        ("eval -q", {"numpy"}),
        ("eval", {"numpy", "rich"}),
    ],
)
def test_light_commands_import_nothing_heavy(environment, tmp_path, line, expected):
    stdin = lines(*map(sample_record, range(8))) if line.startswith("score") else SCORED
    if line.startswith("filter"):
        stdin = SCORED.replace(b'"correct"', b'"reward": 1, "correct"')
    assert imported(environment, tmp_path, *line.split(), stdin=stdin) == expected


@pytest.mark.slow
def test_help_starts_fast(environment):
    """At most 0.15 CPU seconds more than Python and typer need: the best of five. Wall time is the tests' to share."""

    def best(*words) -> float:
        seconds = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *words], env=environment, capture_output=True, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(seconds)

    assert best("-m", "reasonrl", "--help") < best("-c", "import typer") + 0.15


@pytest.mark.parametrize("stage", cli.STAGES)
def test_every_help_explains_every_option_and_has_examples(sh, stage):
    done = sh(f"reasonrl {stage} --help")
    assert (done.code, done.err) == (0, "") and done.out == sh(f"reasonrl {stage} -h").out
    text = done.out.decode()
    assert (
        re.search(rf"Examples:\n +(.*\| )?reasonrl {stage}\b", text)
        or f"reasonrl {stage}" in text.split("Examples:")[1]
    )
    sections = dict(re.findall(r"^(\w[\w ]*):\n((?:  .*\n?)+)", text, re.MULTILINE))
    assert {"Output", "Every stage"} <= sections.keys()
    entries = [entry.strip() for section in sections.values() for entry in re.split(r"\n(?=  \S)", section)]
    for entry in entries:
        words = re.split(r"\s{2,}", entry)
        assert len(words) > 1 and len(words[1]) > 4, f"no help: {entry}"
        assert entry.endswith((".", "]")), f"not a sentence: {entry}"
    explained = {flag for entry in entries for flag in re.findall(r"(?<![\w-])--?[a-z][\w-]*", entry.split("  ")[0])}
    assert explained >= {flag for one in declared(STAGES[stage]).values() for flag in one.flags}
    assert max(map(len, text.splitlines())) <= 120


def test_the_list_of_stages_is_not_cut_off(sh):
    text = sh("reasonrl --help", COLUMNS="80", TERMINAL_WIDTH="80").out.decode().split("Commands:")[1]
    for stage in cli.STAGES:
        assert re.search(rf"^  {stage} +[A-Z].*\.$", text, re.M) and "..." not in text, text


@pytest.mark.parametrize("stage", cli.STAGES)
def test_values_have_names_that_a_person_would_use(sh, stage):
    text = sh(f"reasonrl {stage} --help").out.decode().split("Examples:")[1]
    assert not re.search(r"^  -.*<(int|float|str|list)\b|(INTEGER|FLOAT|TEXT) (RANGE|\.\.\.)", text, re.M), text


def test_every_example_in_a_help_parses():
    """Each `reasonrl …` in the examples is a command line that its stage accepts, as far as flags go."""
    app = cli.typer.main.get_command(cli.app)
    parsed = 0
    for stage in cli.STAGES:
        examples = app.commands[stage].help.split("Examples:")[1]
        for words in re.findall(r"reasonrl (\w+)((?: (?:'[^']*'|[^|&)>\n'])+)*)", examples):
            arguments = subprocess.run(
                ["bash", "-c", f"for word in {words[1]}; do printf '%s\\0' \"$word\"; done"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.split("\0")[:-1]
            command = app.commands[words[0]]
            context = command.make_context(words[0], arguments, resilient_parsing=False)
            resolve(STAGES[words[0]], options.given(context, context.params, STAGES[words[0]]))
            parsed += 1
    assert parsed >= 2 * len(cli.STAGES)


def test_shared_flags_mean_the_same_everywhere():
    app = cli.typer.main.get_command(cli.app)
    shared = {"--output": "-o", "--quiet": "-q", "--force": "-f", "--resume": None, "--seed": None, "--split": None}
    for name, command in app.commands.items():
        options = {option.opts[0]: option for option in command.params if option.opts[0].startswith("-")}
        assert {"--quiet", "--force", "--resume", "--output"} <= options.keys(), name
        for flag, short in shared.items():
            if flag in options and short:
                assert short in options[flag].opts, f"{name} {flag}"


def test_exit_codes(sh, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(SCORED)
    for line, code in {
        "reasonrl --version": 0,
        "reasonrl data mini --limit 1": 0,
        "reasonrl data mini --version": 0,
        "reasonrl eval -q in.jsonl": 0,
        "echo nonsense | reasonrl score": 1,
        "reasonrl": 2,
        "reasonrl nonsense": 2,
        "reasonrl score --nonsense": 2,
        "reasonrl score missing.jsonl": 2,
        "reasonrl score .": 2,
        "reasonrl score": 2,
        "reasonrl score in.jsonl --reward nonsense": 2,
        "reasonrl score in.jsonl --reward named=nonsense": 2,
        "reasonrl score in.jsonl --reward named=verify.txt:check": 2,
        "reasonrl score in.jsonl --answer nonsense": 2,
        "reasonrl filter in.jsonl --min-reward nan": 2,
        "reasonrl filter in.jsonl --per-question 0": 2,
        "reasonrl eval in.jsonl --set round": 2,
        "reasonrl eval in.jsonl --set metrics=1": 2,
        "reasonrl eval in.jsonl --seed -1": 2,
        "reasonrl data mini --split dev": 2,
        "reasonrl data mini --limit 0": 2,
        "reasonrl data nonsense": 2,
        "reasonrl data missing.jsonl": 2,
        "reasonrl data gsm8k --path .": 2,
        "reasonrl report -o in.jsonl in.jsonl": 2,
    }.items():
        done = sh(line)
        assert done.code == code, f"{line}: {done}"
        if code and line != "reasonrl":
            assert done.out == b"" and done.err.count("\n") == 1 and done.err.startswith("reasonrl"), done


def test_an_unforeseen_error_is_one_line_and_debug_shows_where(sh, tmp_path, environment):
    broken = "import reasonrl.stages.score as s; s.need_text = lambda *_: 1 / 0; from reasonrl import cli; cli.main()"
    run = [sys.executable, "-c", broken, "score"]
    done = subprocess.run(run, input=SCORED, capture_output=True, env=environment, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        1, b"reasonrl score: ZeroDivisionError: division by zero (--debug shows where)\n",
    )  # fmt: skip
    done = subprocess.run([*run, "--debug"], input=SCORED, capture_output=True, env=environment, cwd=tmp_path)
    assert done.returncode == 1 and b"Traceback" in done.stderr


def test_an_interruption_before_anything_is_imported_is_one_line(environment):
    late = """
import os, runpy, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["reasonrl", "--version"]
runpy.run_module("reasonrl", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", late], capture_output=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"reasonrl: interrupted\n")


def test_quiet_leaves_only_warnings_and_errors(sh):
    assert (
        sh("reasonrl score -q | reasonrl filter -q | reasonrl eval -q", stdin=SCORED.replace(b'"k"', b'"k"')).err == ""
    )
    assert "warning" in sh("reasonrl score -q", stdin=b"").err


def on_terminal(command: str, environment: dict, cwd) -> bytes:
    """What a terminal shows of a command's stderr; its stdout goes to a file."""
    shown_by, terminal = pty.openpty()
    process = subprocess.Popen(
        ["bash", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        env=environment,
        cwd=cwd,
    )
    os.close(terminal)
    shown = b""
    try:
        while piece := os.read(shown_by, 65536):
            shown += piece
    except OSError:  # Linux says so when the other end is closed
        pass
    os.close(shown_by)
    assert process.wait() == 0
    return shown


def test_no_color_is_obeyed_and_a_pipe_gets_no_escapes(sh, tmp_path, environment):
    (tmp_path / "in.jsonl").write_bytes(SCORED)
    terminal = environment | {"TERM": "xterm-256color"}
    assert b"\x1b[" in on_terminal("reasonrl eval in.jsonl", terminal, tmp_path)
    # Bold is no colour; NO_COLOR asks for no colours.
    assert not re.search(rb"\x1b\[[0-9;]*(3[0-8]|4[0-8]|9[0-7])", on_terminal(
        "reasonrl eval in.jsonl", terminal | {"NO_COLOR": "1"}, tmp_path))  # fmt: skip
    done = sh("reasonrl eval in.jsonl", TERM="xterm-256color")
    assert "\x1b" not in done.err and "pass@4" in done.err
    assert done.out.count(b"\n") == 1 and done.records[0]["questions"] == 2


def test_progress_is_for_terminals(environment, tmp_path):
    code = "from reasonrl import console\nwith console.progress('working', 3) as advance: advance(2, 'soon')"
    (tmp_path / "script.py").write_text(code)
    terminal = environment | {"TERM": "xterm-256color"}
    assert b"working" in on_terminal("python3 script.py", terminal, tmp_path)
    piped = subprocess.run(["python3", "script.py"], capture_output=True, cwd=tmp_path, env=terminal)
    assert (piped.returncode, piped.stdout + piped.stderr) == (0, b"")


def test_help_in_any_locale(sh):
    for variables in ({"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}):
        assert sh("reasonrl filter --help", **variables).code == 0, "ASCII has no ∪"
