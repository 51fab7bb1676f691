"""Holds the tree to docs/architecture.md, and to the bounds on files and functions.

    python tools/structure.py        prints what does not hold, one line each, and exits 1 if anything does not
    python tools/structure.py --figures   prints lines, and the median and longest function

Every module stands on one floor of that page; imports, deferred ones too, point to lower floors or stay in their room
(the folder); no circle. No file has more than 400 lines, no function more than 80 or more than 8 parameters. No
variable is called by a word of grammar that says nothing of what it holds.
"""

import ast
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "reasonrl"
PAGE = ROOT / "docs" / "architecture.md"
CODE = ("reasonrl", "tests", "tools", "benchmarks", "recipes")
MAX_LINES, MAX_FUNCTION, MAX_PARAMETERS = 400, 80, 8
EMPTY_WORDS = {"of", "found", "asked", "said", "told", "mine"}

Function = tuple[str, int, int]
"""Place and name, lines, parameters."""


def floors(page: str) -> dict[str, int]:
    """Module ("rewards/base.py") → its floor."""
    placed: dict[str, int] = {}
    floor = 0
    for line in page.splitlines():
        if heading := re.match(r"### Floor (\d+)", line):
            floor = int(heading[1])
        elif floor and (module := re.match(r"\| `([\w/]+\.py)`", line)):
            placed[module[1]] = floor
    return placed


def modules() -> dict[str, Path]:
    """Module → file; an `__init__.py` that holds a docstring only is left out."""
    files = {str(file.relative_to(PACKAGE)): file for file in sorted(PACKAGE.rglob("*.py"))}
    is_bare = lambda file: file.name == "__init__.py" and not list(imports(file)) and file != PACKAGE / "__init__.py"
    return {name: file for name, file in files.items() if not is_bare(file) and name != "__init__.py"}


def imports(file: Path) -> Iterator[str]:
    """The modules of the package that a file imports, at its top or inside its functions."""
    inside = file.parent.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        start = inside[: len(inside) - node.level + 1] if node.level else ()
        parts = (*start, *(node.module or "").split(".")) if node.module else start
        if parts[:1] != ("reasonrl",):
            continue
        for name in node.names:
            for candidate in ((*parts, name.name), parts):
                target = ROOT.joinpath(*candidate)
                module = next(
                    (one for one in (target.with_suffix(".py"), target / "__init__.py") if one.exists()), None
                )
                if module:
                    yield str(module.relative_to(PACKAGE))
                    break


def room(module: str) -> str:
    """The folder of a module; a module of the package's own folder is a room by itself."""
    return module.partition("/")[0]


def check_floors(placed: dict[str, int], arrows: dict[str, set[str]]) -> Iterator[str]:
    for module in sorted(arrows.keys() - placed.keys()):
        yield f"{module}: stands on no floor of {PAGE.name}"
    for module in sorted(placed.keys() - arrows.keys()):
        yield f"{PAGE.name}: {module} is not there"
    for module, targets in arrows.items():
        for target in sorted(targets & placed.keys()):
            inside = room(module) == room(target)
            if module in placed and not inside and placed[target] >= placed[module]:
                yield f"{module} (floor {placed[module]}) imports {target} (floor {placed[target]}): arrows point down"


def check_circles(arrows: dict[str, set[str]]) -> Iterator[str]:
    """Depth-first: an arrow back to a module that is still open closes a circle."""
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> Iterator[str]:
        if module in path:
            yield "circle: " + " → ".join((*path[path.index(module) :], module))
        elif module not in done:
            for target in sorted(arrows.get(module, ())):
                yield from visit(target, (*path, module))
            done.add(module)

    for module in sorted(arrows):
        yield from visit(module, ())


def functions(file: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            parameters = [one for one in every if one.arg not in ("self", "cls")]
            place = f"{file.relative_to(ROOT)}:{node.lineno} {node.name}"
            yield place, (node.end_lineno or node.lineno) - node.lineno + 1, len(parameters)


def check_sizes(files: list[Path]) -> Iterator[str]:
    for file in files:
        lines = len(file.read_text(encoding="utf-8").splitlines())
        if lines > MAX_LINES:
            yield f"{file.relative_to(ROOT)}: {lines} lines, at most {MAX_LINES}"
        for place, length, parameters in functions(file):
            if length > MAX_FUNCTION:
                yield f"{place}: {length} lines, at most {MAX_FUNCTION}"
            if parameters > MAX_PARAMETERS:
                yield f"{place}: {parameters} parameters, at most {MAX_PARAMETERS} (make them a settings object)"


def check_names(files: list[Path]) -> Iterator[str]:
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            stored = node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else None
            name = node.arg if isinstance(node, ast.arg) else stored
            if name in EMPTY_WORDS:
                yield f"{file.relative_to(ROOT)}:{node.lineno}: {name} says nothing of what it holds"


def main(words: list[str]) -> int:
    files = [file for folder in CODE for file in sorted((ROOT / folder).rglob("*.py"))]
    if words == ["--figures"]:
        own = [file for file in files if PACKAGE in file.parents]
        lengths = sorted(length for file in own for _, length, _ in functions(file))
        total = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in own)
        print(
            f"{total} lines in {len(own)} files, {len(lengths)} functions, median {statistics.median(lengths):g} lines,"
        )
        print(f"90th percentile {lengths[len(lengths) * 9 // 10]}, longest {lengths[-1]}")
        return 0
    arrows = {name: set(imports(file)) - {name} for name, file in modules().items()}
    known = {name: targets & arrows.keys() for name, targets in arrows.items()}
    placed = floors(PAGE.read_text(encoding="utf-8"))
    problems = [*check_floors(placed, known), *check_circles(known), *check_sizes(files), *check_names(files)]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
