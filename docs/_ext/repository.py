"""Links of a page to files of the repository that are no pages.

Text that is included from the repository's root (CONTRIBUTING.md, CHANGELOG.md, benchmarks/README.md) links to source
files and folders as GitHub shows them. On the site a Python module leads to its highlighted source where the reference
lists it, and every other file of the repository is named, not linked.
"""

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).resolve().parents[2]


class NameFiles(SphinxTransform):
    """Replaces links to files of the repository, which a site without a network cannot show, by the file's path."""

    default_priority = 1

    def apply(self, **_: Any) -> None:
        for node in list(self.document.findall(addnodes.download_reference)) + list(
            self.document.findall(addnodes.pending_xref)
        ):
            target = node.get("reftarget", "")
            path = (ROOT / target).resolve()
            if node.get("refdomain") in (None, "doc", "") and not target.startswith("#") and self.outside(path):
                literal = nodes.literal("", str(path.relative_to(ROOT)))
                node.replace_self([*node.children, nodes.Text(" ("), literal, nodes.Text(")")])

    def outside(self, path: Path) -> bool:
        return path.exists() and ROOT in path.parents and ROOT / "docs" not in path.parents


def setup(app: Any) -> dict[str, bool]:
    app.add_transform(NameFiles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
