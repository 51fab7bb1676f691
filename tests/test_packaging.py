"""What a project has beside its code: metadata, licence, changelog, citation, hooks and the workflow."""

import ast
import hashlib
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

import reasonrl
from reasonrl.io.provenance import RENAMED
from reasonrl.options import EVERY_STAGE
from reasonrl.settings import STAGES
from reasonrl.settings.declare import declared

read = lambda name: (ROOT / name).read_text(encoding="utf-8")
PYPROJECT = tomllib.loads(read("pyproject.toml"))
PROJECT = PYPROJECT["project"]
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
OWNER = "The reasonrl developers"

# Metadata


def test_the_metadata_are_complete():
    assert PROJECT["license"] == "Apache-2.0" and PROJECT["authors"] == [{"name": OWNER}]
    assert {"reinforcement-learning", "reasoning"} <= set(PROJECT["keywords"])
    assert PROJECT["keywords"] == sorted(set(PROJECT["keywords"]))
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {lowest}" in PROJECT["classifiers"]
    # A licence expression and a classifier for it exclude each other (PEP 639).
    assert not [one for one in PROJECT["classifiers"] if one.startswith("License ::")]
    assert ("Typing :: Typed" in PROJECT["classifiers"]) == (ROOT / "reasonrl" / "py.typed").exists()


def test_the_files_that_the_metadata_name_are_there():
    for name in (PROJECT["readme"], *PROJECT["license-files"]):
        assert (ROOT / name).is_file(), name


def test_the_source_distribution_holds_what_a_project_has():
    patterns = PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    for pattern in patterns:
        assert pattern.startswith("/") and (ROOT / pattern[1:]).exists(), f"{pattern} is not there"
    wanted = {path.name for path in ROOT.glob("*.md")} | {"LICENSE", "CITATION.cff", "mkdocs.yml", "justfile"}
    wanted |= {"reasonrl", "recipes", "tests", "docs", "tools", "benchmarks", ".ci", ".github"}
    assert not {f"/{name}" for name in wanted} - set(patterns)


def test_the_licence_is_apache_2_0_to_the_letter():
    """The hash is that of the text as apache.org publishes it, with its line for the owner's name."""
    owned = read("LICENSE")
    assert owned.count(f"   Copyright 2026 {OWNER}\n") == 1
    plain = owned.replace(f"Copyright 2026 {OWNER}", "Copyright [yyyy] [name of copyright owner]")
    digest = hashlib.sha256(plain.encode()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


# The changelog

# The flags of 0.1.0, by stage, without the dashes.
OUTPUT = "output force resume"
OPTIMISER = "preset epochs lr final-lr warmup weight-decay clip lora-rank batch-size"
TRAINER = f"{OPTIMISER} {OUTPUT} seed batch-tokens gradient-checkpointing save-every device dtype attn"
FIRST_FLAGS = {
    "data": f"split limit seed path {OUTPUT}",
    "sample": f"""task split limit model k temperature top-p max-tokens stop prompt shots condition logprobs seed shard
        path dry-run backend batch-tokens device dtype attn base-url concurrency timeout retries engine-arg {OUTPUT}""",
    "score": f"reward weight answer task orm timeout batch-tokens device dtype on-error rejects {OUTPUT}",
    "filter": f"min-reward dedup per-question on-error rejects {OUTPUT}",
    "sft": f"model max-length prompt stop limit {TRAINER}",
    "orm": f"model prefixes held-out lm-weight share-prompts lora-layers max-length prompt limit {TRAINER}",
    "ppo": f"""task split limit path model reward weight answer orm samples k minibatches advantage critic kl kl-limit
        gamma lam clip-range value-clip value-coefficient entropy-coefficient critic-warmup missing-eos-penalty
        temperature max-tokens stop prompt timeout keep-every log-with {TRAINER}""",
    "rcrl": f"""task split limit path model base data save-data labels solutions k threshold temperature max-tokens stop
        prompt reward weight answer orm timeout max-length {TRAINER}""",
    "eval": f"set seed on-error rejects {OUTPUT}",
    "report": f"x metric against title {OUTPUT}",
    "plan": f"device assume {OUTPUT}",
    "demo": f"rounds seed {OUTPUT}",
}


def since_the_first(changelog: str) -> str:
    """What the changelog says of all versions after 0.1.0."""
    newer, heading, _ = changelog.partition("\n## 0.1.0")
    assert heading
    return newer


def flags(stage: str) -> set[str]:
    return {flag for one in declared(STAGES[stage]).values() for flag in one.flags if flag.startswith("--")}


@pytest.mark.parametrize("stage", FIRST_FLAGS)
def test_the_changelog_names_every_flag_that_came_or_went(stage):
    before = {f"--{name}" for name in FIRST_FLAGS[stage].split()}
    named = set(re.findall(r"`(--[\w-]+)", since_the_first(read("CHANGELOG.md"))))
    assert stage in STAGES or f"`{stage}`" in since_the_first(read("CHANGELOG.md"))
    unsaid = (before ^ flags(stage)) - named
    assert not unsaid, f"say in CHANGELOG.md what became of {', '.join(sorted(unsaid))} of `{stage}`"


def test_the_changelog_names_new_stages_and_new_flags_of_every_stage():
    newer = since_the_first(read("CHANGELOG.md"))
    for stage in STAGES.keys() - FIRST_FLAGS.keys():
        assert re.search(rf"`(reasonrl )?{stage}\b", newer), stage
    every = {word for names, _ in EVERY_STAGE for word in re.findall(r"--[\w-]+", names)}
    for flag in every - {"--quiet", "--debug", "--version", "--help"}:  # which 0.1.0 had
        assert f"`{flag}" in newer, flag


def test_the_changelog_names_every_setting_that_sidecars_call_otherwise():
    rows = [line.split("|") for line in since_the_first(read("CHANGELOG.md")).splitlines() if line.startswith("| ")]
    pairs = {(row[2].strip(), row[3].strip()) for row in rows if len(row) == 5}
    assert {(f"`{old}`", f"`{new}`") for old, new in RENAMED.items()} <= pairs


def test_module_paths_of_the_changelog_are_those_of_the_tree():
    table = since_the_first(read("CHANGELOG.md")).split("### Changed: module paths")[1].split("\n\n")[1]
    rows = [[re.findall(r"`([\w/.]+)`", cell) for cell in line.split("|")[1:3]] for line in table.splitlines()[2:]]
    assert len(rows) > 10
    for before, after in rows:
        assert before and after
        for path in after:
            assert (ROOT / "reasonrl" / path).exists(), path


def test_versions_agree():
    newest, *older = re.findall(r"^## (\S+) \((.+)\)$", read("CHANGELOG.md"), re.M)
    released = older[0] if newest[1] == "unreleased" else newest
    assert reasonrl.__version__ == released[0] == yaml.safe_load(read("CITATION.cff"))["version"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", released[1]) and all(date != "unreleased" for _, date in older)


# The citation


def test_the_citation_has_what_the_format_asks_for():
    cited = yaml.safe_load(read("CITATION.cff"))
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software" and cited["message"] and cited["title"]
    assert cited["authors"] == [{"name": OWNER}] and cited["license"] == PROJECT["license"]
    (paper,) = cited["references"]
    assert paper["title"] == "Teaching Large Language Models to Reason with Reinforcement Learning"
    assert paper["type"] == "article" and paper["year"] == 2024
    assert [author["family-names"] for author in paper["authors"]] == ["Havrilla"]
    assert paper["identifiers"][0]["value"] == "arXiv:2403.04642"


# CI and hooks

lines_of = lambda text: [line.strip() for line in text.splitlines() if line.strip()]


def hooks() -> list[dict]:
    (repository,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert repository["repo"] == "local"
    return repository["hooks"]


def test_the_workflow_runs_ci_and_nothing_else():
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    used = [step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step]
    assert used == ["actions/checkout", "actions/setup-python"]
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert [step["with"]["python-version"] for step in job["steps"] if "with" in step] == [lowest]
    assert workflow["permissions"] == {"contents": "read"} and job["runs-on"].startswith("ubuntu")


def test_every_hook_is_a_command_that_exists():
    for hook in hooks():
        command, *words = hook["entry"].split()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        assert shutil.which(command, path=path), f"{command}: pip install -e '.[dev]' brings it"
        assert all((ROOT / word).is_file() for word in words if word.endswith(".py"))
        assert hook["language"] == "system" and hook["pass_filenames"] is False


def test_hooks_just_and_ci_check_the_same():
    (checks,) = re.findall(r"^for check in (.*); do$", read(".ci/run"), re.M)
    in_ci = re.findall(r'"([^"]+)"', checks)
    recipe = re.search(r"^lint:\n((?:    .*\n)+)", read("justfile"), re.M)[1].replace("{{python}}", "python")
    assert [hook["entry"] for hook in hooks()] == in_ci == lines_of(recipe)


# The pages


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_somewhere(page):
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", read(page)) if not target.startswith("https://")]
    missing = [target for target in targets if not (ROOT / target.partition("#")[0]).exists()]
    assert not missing


def test_the_commands_that_contributors_are_told_are_there():
    recipes = set(re.findall(r"^([a-z][\w-]*)(?= [A-Z*]|:(?!=))", read("justfile"), re.M))
    mentioned = set(re.findall(r"`just ([\w-]+)`", read("CONTRIBUTING.md")))
    assert {"lint", "test", "test-fast"} <= mentioned <= recipes
    (install,) = re.findall(r"^python3 -m venv .*$", read("CONTRIBUTING.md"), re.M)
    assert f"{install} && pytest" in read("README.md")
    for path in re.findall(r"pytest -n 0 (\S+)", read("CONTRIBUTING.md")):
        assert (ROOT / path).is_file(), path


def test_every_word_of_the_glossary_is_explained_once():
    table = read("CONTRIBUTING.md").split("## Glossary")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    words = [word for row in rows[1:] for word in row[0].removeprefix("| ").split(", ")]
    assert len(words) == len(set(words)) and all(len(row) == 2 and len(row[1]) > 12 for row in rows[1:])
    assert {"question", "problem", "sample", "rollout", "step", "update", "gradient update", "verdict", "score"} <= set(
        words
    )


def shapes(source: str) -> set[str]:
    """The letters of shapes such as (B, 1, T) in the docstrings and comments of a module; a shape has a capital."""
    texts = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    texts += re.findall(r"# .*", source)
    shapes_found = [
        re.split(", ?", shape) for text in texts for shape in re.findall(r"\((\w+(?:, ?\w+)*,?)\)", str(text))
    ]
    shaped = [parts for parts in shapes_found if len(parts) > 1 and any(re.fullmatch("[A-Z]", part) for part in parts)]
    return {part for parts in shaped for part in parts if re.fullmatch("[A-Za-z]", part)}


def test_shapes_are_found_in_a_docstring():
    assert shapes('"""ids (B, T) → (N,), logits (rows, V); see (seed, id, k), C(n, k), f(x, y) and (Z)."""') == set(
        "BTNV"
    )


def test_the_letters_of_shapes_are_those_of_the_docstrings():
    table = read("CONTRIBUTING.md").split("## Letters of tensor shapes")[1]
    explained = re.findall(r"^\| (\w) \|", table, re.M)
    rooms = [path for room in ("training", "sampling/hf", "models", "rewards") for path in
             (ROOT / "reasonrl" / room).rglob("*.py")]  # fmt: skip
    used = set().union(*(shapes(path.read_text(encoding="utf-8")) for path in rooms))
    assert len(explained) == len(set(explained))
    assert used == set(explained) - {"k", "K"}  # which stand beside words: (questions, k)
