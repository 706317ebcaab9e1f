"""Runs the Python of documentation pages, each page as one session from top to bottom: `python -m tests.pages PAGE …`.

A session is the page's ```python blocks, and what readers do not see, in comments:

    <!-- test: 200_000 -> 4096; (64, 64) -> (8,) -->   replacements in the next block
    <!-- test                                          code that runs at this place
    assert ... -->
    <!-- test: slow -->                                the page is left to `make test-slow`

All pages share one interpreter, since imports take longer than most of them; each has names and a folder of its own.
"""

import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PIECE = re.compile(
    r"^<!-- test: (?P<small>[^\n]*?) -->$|^<!-- test\n(?P<hidden>.*?)-->$|^```python\n(?P<shown>.*?)^```$", re.M | re.S
)
SLOW = "<!-- test: slow -->"


def pieces(text: str) -> Iterator[str]:
    """The code of a page, piece by piece, each behind as many empty lines as it has lines above it."""
    replacements: list[tuple[str, str]] = []
    for piece in PIECE.finditer(text):
        if piece["small"] is not None:
            if piece["small"] != "slow":
                replacements += [tuple(pair.split(" -> ")) for pair in piece["small"].split("; ")]
            continue
        kind = "hidden" if piece["shown"] is None else "shown"
        code = piece[kind]
        if kind == "shown":
            for old, new in replacements:
                assert old in code, f"the next block has no {old!r}, which a test should make {new!r}"
                code = code.replace(old, new)
            replacements = []
        yield "\n" * text[: piece.start(kind)].count("\n") + code
    assert not replacements, f"no block follows {replacements}"


def run(page: Path) -> None:
    """Runs a page in the current folder."""
    module = ModuleType(f"page_{page.stem}")
    sys.modules[module.__name__] = module
    for code in pieces(page.read_text(encoding="utf-8")):
        exec(compile(code, page, "exec"), module.__dict__)  # what we wrote ourselves


def main(pages: list[Path]) -> int:
    """Runs pages, each in a fresh folder; the number of those that failed."""
    failed = 0
    for page in pages:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                run(page)
            except Exception:
                failed += 1
                print(f"{page.relative_to(ROOT)} failed:\n{traceback.format_exc()}", file=sys.stderr)
            os.chdir(ROOT)
    return failed


if __name__ == "__main__":
    sys.exit(main([Path(page).resolve() for page in sys.argv[1:]]))
