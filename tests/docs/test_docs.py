"""The pages: the site builds, every page is reached, links lead somewhere, and a code host shows the same."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import yaml
from conftest import ROOT
from markdown_it import MarkdownIt

from reasonrl import cli, options
from reasonrl.errors import UsageError
from reasonrl.settings import STAGES

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [ROOT / "README.md", *PAGES]
BLOCKS = {"h1", "h2", "h3", "h4", "p", "li", "pre", "th", "td"}


def tool(*words, **variables):
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "cli_reference.py", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site. Warnings end the build: a link that leads nowhere, an anchor that is not there."""
    pytest.importorskip("mkdocs", reason="pip install -e '.[dev]' brings mkdocs")
    directory = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", directory]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return directory


def test_every_page_is_in_the_navigation():
    def pages(entries):
        for entry in entries:
            for value in entry.values():
                yield from pages(value) if isinstance(value, list) else [value]

    listed = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert len(listed) == len(set(listed))
    missing = {str(page.relative_to(DOCS)) for page in PAGES} - set(listed)
    assert not missing, f"add to `nav` in mkdocs.yml: {', '.join(sorted(missing))}"


def test_every_result_is_in_the_table_of_results():
    table = (DOCS / "results" / "README.md").read_text()
    pages = [str(page.relative_to(DOCS / "results")) for page in (DOCS / "results").rglob("*.md")]
    missing = [page for page in pages if page != "README.md" and f"({page})" not in table]
    assert not missing, f"add to the table in docs/results/README.md: {', '.join(missing)}"


class Blocks(HTMLParser):
    """The text of every heading, paragraph, list item, code block and table cell, in order."""

    def __init__(self, html):
        super().__init__()
        self.blocks, self.open = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        if tag in BLOCKS:
            self.open.append([tag, ""])
        elif tag == "a" and "headerlink" in dict(attributes).get("class", ""):
            self.open.append(["headerlink", ""])

    def handle_endtag(self, tag):
        if self.open and (tag == self.open[-1][0] or (tag == "a" and self.open[-1][0] == "headerlink")):
            tag, text = self.open.pop()
            if tag in BLOCKS:
                self.blocks.append((tag, text.strip("\n") if tag == "pre" else " ".join(text.split())))

    def handle_data(self, data):
        if self.open:
            self.open[-1][1] += data


def test_the_blocks_of_a_page_are_read_as_they_stand():
    html = '<h2>One<a class="headerlink" href="#one">#</a></h2><table><td>a <code>b</code></td></table><pre>c\n d</pre>'
    assert Blocks(html).blocks == [("h2", "One"), ("td", "a b"), ("pre", "c\n d")]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(DOCS)) for page in PAGES])
def test_the_site_and_a_code_host_show_the_same(site, page):
    """Two implementations of Markdown agree on each block: tables are tables, lists are lists, code is code."""
    name = str(page.relative_to(DOCS)).replace("README.md", "index.md").removesuffix(".md")
    body = (site / f"{name}.html").read_text().split('itemprop="articleBody">')[1].split("<footer>")[0]
    host = Blocks(MarkdownIt("commonmark").enable("table").render(page.read_text())).blocks
    ours = Blocks(body).blocks
    assert ours == host


@pytest.mark.parametrize("page", TEXTS, ids=[str(page.relative_to(ROOT)) for page in TEXTS])
def test_links_lead_somewhere(page):
    """Relative, to a file of the repository; from docs/ only within docs/, since the site holds nothing else."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "#")):
            continue
        file = (page.parent / target.partition("#")[0]).resolve()
        assert file.exists(), f"{target} is not there"
        assert DOCS not in page.parents or DOCS in file.parents or file == DOCS, f"{target} leaves docs/: no link"


def test_the_command_line_reference_is_what_the_commands_say():
    done = tool("--check")
    assert done.returncode == 0, done.stderr


def test_the_reference_is_the_same_on_every_terminal():
    module = "import runpy; page = runpy.run_path('tools/cli_reference.py')['reference'](); print(page, end='')"
    written = (DOCS / "cli.md").read_bytes()
    for variables in ({"COLUMNS": "40"}, {"COLUMNS": "200", "REASONRL_MODEL": "another", "LC_ALL": "C"}):
        done = subprocess.run(
            [sys.executable, "-X", "utf8", "-c", module], cwd=ROOT, capture_output=True, check=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        )  # fmt: skip
        assert done.stdout == written


def test_a_stale_reference_is_noticed_and_the_error_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "tools").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "tools" / "cli_reference.py").write_text((ROOT / "tools" / "cli_reference.py").read_text())
    (tmp_path / "docs" / "cli.md").write_text((DOCS / "cli.md").read_text().replace("--temperature", "--heat"))
    done = subprocess.run(
        [sys.executable, tmp_path / "tools" / "cli_reference.py", "--check"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "just cli-reference" in done.stderr


@pytest.mark.parametrize("stage", cli.STAGES)
def test_the_reference_has_every_option(stage):
    page = (DOCS / "cli.md").read_text()
    section = page.split(f"## `reasonrl {stage}`")[1].split("\n## ")[0]
    everywhere = {"--config", "--quiet", "-q", "--debug", "--version", "--help", "-h"}
    for parameter in cli.typer.main.get_command(cli.app).commands[stage].params:
        for name in set(parameter.opts) - everywhere:
            if name.startswith("-"):
                assert re.search(rf"^\| .*`{name}[ `].* \| \S.*\. \| .*\|$", section, re.M), name


def commands(text):
    """Every `reasonrl STAGE …` in the code blocks of a page, as words."""
    for language, fenced, indented in re.findall(r"^```(\w*)\n(.*?)^```$|((?:^    [^\n]*\n)+)", text, re.M | re.S):
        lines = (fenced + indented).replace("\\\n", " ") if language in ("", "sh", "console") else ""
        for stage, rest in re.findall(r"reasonrl (\w+)((?: +(?:'[^']*'|[^|&)>\n'#`])+)*)", lines):
            if stage in cli.STAGES:
                rest = re.sub(r"\$\{?\w+\}?", "1", rest)
                script = f"for word in {rest}; do printf '%s\\0' \"$word\"; done"
                words = subprocess.run(["bash", "-fc", script], capture_output=True, text=True, check=True).stdout
                yield stage, words.split("\0")[:-1]


def test_every_command_on_a_page_is_one_that_its_stage_accepts():
    count = 0
    for page in TEXTS:
        for stage, words in commands(page.read_text()):
            if "--config" in words:  # the file of a page is not there
                words = [word for word in words if word not in ("--config", words[words.index("--config") + 1])]
            try:
                options.parse(STAGES[stage], words, lambda model: "paper")
            except UsageError as error:
                pytest.fail(f"{page.name}: reasonrl {stage} {' '.join(words)}: {error}")
            count += 1
    assert count > 60
