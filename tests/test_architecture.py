"""docs/architecture.md is the tree, arrows point down, and nothing is too long: see tools/structure.py."""

import importlib.util
import subprocess
import sys

import pytest
from conftest import ROOT

spec = importlib.util.spec_from_file_location("structure", ROOT / "tools" / "structure.py")
structure = importlib.util.module_from_spec(spec)
spec.loader.exec_module(structure)


def test_the_tree_is_as_the_page_draws_it():
    done = subprocess.run([sys.executable, ROOT / "tools" / "structure.py"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


PLACED = {"cli.py": 3, "stages/a.py": 2, "stages/b.py": 2, "io/c.py": 1, "errors.py": 1}


@pytest.mark.parametrize(
    ("arrows", "complaint"),
    [
        ({"cli.py": {"stages/a.py"}, "stages/a.py": {"stages/b.py", "io/c.py"}}, None),
        ({"io/c.py": {"stages/a.py"}}, "io/c.py (floor 1) imports stages/a.py (floor 2): arrows point down"),
        ({"io/c.py": {"errors.py"}}, "io/c.py (floor 1) imports errors.py (floor 1): arrows point down"),
        ({"new.py": set()}, "new.py: stands on no floor of architecture.md"),
    ],
)
def test_arrows_that_do_not_point_down_are_found(arrows, complaint):
    arrows = {name: set() for name in PLACED} | arrows
    assert list(structure.check_floors(PLACED, arrows)) == ([complaint] if complaint else [])


def test_a_module_that_is_drawn_and_not_there_is_found():
    assert list(structure.check_floors({"gone.py": 1}, {})) == ["architecture.md: gone.py is not there"]


def test_circles_are_found():
    assert not list(structure.check_circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}))
    assert list(structure.check_circles({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == ["circle: b → c → b"]


def test_long_files_functions_and_signatures_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(structure, "ROOT", tmp_path)
    body = "".join(f"    x = {number}\n" for number in range(80))
    many = ", ".join(f"p{number}" for number in range(9))
    (tmp_path / "long.py").write_text(f"def long():\n{body}\n\ndef wide({many}):\n    pass\n" + "\n" * 400)
    complaints = list(structure.check_sizes([tmp_path / "long.py"]))
    assert [complaint.partition(":")[2].strip() for complaint in complaints] == [
        f"{len((tmp_path / 'long.py').read_text().splitlines())} lines, at most 400",
        "1 long: 81 lines, at most 80",
        "84 wide: 9 parameters, at most 8 (make them a settings object)",
    ]


def test_variables_that_say_nothing_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(structure, "ROOT", tmp_path)
    (tmp_path / "words.py").write_text("def f(told, kept):\n    found = kept\n    return found.said\n")
    assert sorted(structure.check_names([tmp_path / "words.py"])) == [
        "words.py:1: told says nothing of what it holds", "words.py:2: found says nothing of what it holds"
    ]  # fmt: skip


def test_deferred_imports_count():
    """`io/provenance` is imported inside functions of `stages/sample`, and so are the engines."""
    arrows = set(structure.imports(structure.PACKAGE / "stages" / "sample.py"))
    assert {"sampling/engines.py", "io/provenance.py", "models/prompt_form.py"} <= arrows
    assert "tasks/mini_scripts.py" in set(structure.imports(structure.PACKAGE / "tasks" / "mini.py"))
