"""The documentation: the code of its pages runs, its links lead somewhere, and the site builds without a warning."""

import ast
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.pages import PAGES, ROOT, SLOW, pieces

TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
WITH_CODE = [page for page in PAGES if any(pieces(TEXTS[page]))]
QUICK = [page for page in WITH_CODE if SLOW not in TEXTS[page]]
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def name_of(page):
    return str(page.relative_to(ROOT))


def run(pages):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.pages", *map(str, pages)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr


def test_the_code_of_the_pages_runs():
    assert ROOT / "README.md" in QUICK
    run(QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in WITH_CODE if page not in QUICK], ids=name_of)
def test_the_code_of_a_long_page_runs(page):
    run([page])


def test_a_session_has_small_numbers_hidden_code_and_the_lines_of_its_page():
    page = "# A\n<!-- test: 5_000 -> 5; (64,) -> (8,) -->\n\n```python\nn = 5_000\nw = (64,)\n```\n"
    first, second = pieces(page + "<!-- test\nassert n == 5\n-->\n")
    assert first == "\n" * 4 + "n = 5\nw = (8,)\n"
    assert second == "\n" * 8 + "assert n == 5\n"
    with pytest.raises(AssertionError, match="the next block has no '7'"):
        list(pieces("<!-- test: 7 -> 1 -->\n```python\nn = 5\n```\n"))
    with pytest.raises(AssertionError, match="no block follows"):
        list(pieces("<!-- test: 7 -> 1 -->\n"))


def test_every_test_that_a_page_names_exists():
    named = {(file, test) for text in TEXTS.values() for file, test in NAMED.findall(text)}
    assert len(named) > 80
    defined = {}
    for file, test in sorted(named):
        assert (ROOT / file).exists(), file
        if file not in defined:
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            defined[file] = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert not test or test in defined[file], f"{file} has no {test}"


def slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"], ids=name_of)
def test_files_and_headings_that_a_page_links_to_exist(page):
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file) if file else page
        assert path.exists(), f"{name_of(page)} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{name_of(page)} links to {target}"


class Links(HTMLParser):
    """The targets and anchors of a page, and what it would load from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.targets, self.anchors, self.loaded = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        target = given.get("href") if tag in ("a", "link") else given.get("src")
        if target and not re.match(r"[\w+.-]+:|//", target):
            self.targets.add(unquote(target))
        elif target and tag != "a" and not target.startswith("data:"):
            self.loaded.add(target)


@pytest.mark.slow  # half a minute, and `make docs` builds it in CI
def test_the_site_builds_without_a_warning_and_needs_no_network(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-n", "-W", "--keep-going", "-q", "docs", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr
    # The index of sources, which no page leads to, lists a module that has none.
    built = [path for path in tmp_path.rglob("*.html") if path != tmp_path / "_modules" / "index.html"]
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in built}
    assert len(pages) > 60
    for path, links in pages.items():
        assert not links.loaded, f"{path.relative_to(tmp_path)} loads {links.loaded}"
        for target in links.targets:
            file, _, anchor = target.partition("#")
            leads_to = Path(os.path.normpath(path.parent / file.partition("?")[0])) if file else path
            assert leads_to.exists(), f"{path.relative_to(tmp_path)} links to {target}"
            if anchor and leads_to in pages:
                assert anchor in pages[leads_to].anchors, f"{path.relative_to(tmp_path)} links to {target}"
