"""What the pages say of the repository around them: its notebooks, its other files, and pages that may be missing.

- A link to a notebook, which lies outside of docs/, leads to the notebook's page.
- A link to another file that is no page, in a page or in text that is included from the repository's root, becomes the
  file's path: a site without a network has no sources to show but those of the reference.
- An entry of a table of contents that ends with a question mark is left out while there is no such page.
- What a notebook's output would load from elsewhere, the icons of an animation's buttons, is left out; rljax.css has
  its own.
"""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).resolve().parents[2]
DOCS, NOTEBOOKS, BENCHMARKS = ROOT / "docs", ROOT / "notebooks", ROOT / "benchmarks"


class Links(SphinxTransform):
    """Links that are relative to the page, or to the folder of the text that it includes."""

    default_priority = 1

    def apply(self, **_: Any) -> None:
        page = Path(self.env.doc2path(self.env.docname)).parent
        references = [
            *self.document.findall(addnodes.download_reference),
            *self.document.findall(addnodes.pending_xref),
        ]
        for node in references:
            target = node.get("reftarget", "")
            if not target or target.startswith("#"):
                continue
            paths = [(folder / target).resolve() for folder in (page, ROOT, BENCHMARKS)]
            if NOTEBOOKS in paths[0].parents:
                node["reftarget"] = f"notebooks/{paths[0].stem}"
            elif named := [path for path in paths if outside(path)]:
                path = nodes.literal("", str(named[0].relative_to(ROOT)))
                node.replace_self([*node.children, nodes.Text(" ("), path, nodes.Text(")")])
        for node in self.document.findall(nodes.raw):
            node.children = [nodes.Text(re.sub(r"<link[^>]*https?://[^>]*>", "", node.astext()))]


def outside(path: Path) -> bool:
    """Whether it is a file or a folder of the repository, and none of the site's."""
    return path.exists() and ROOT in path.parents and DOCS not in path.parents


def outdated(app: Any, env: Any, added: set[str], changed: set[str], removed: set[str]) -> set[str]:
    return {"index"} - added if added or removed else set()


def setup(app: Any) -> dict[str, bool]:
    app.add_transform(Links)
    app.connect("env-get-outdated", outdated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
