"""Parts of a page of HTML that needs no other file and no script. All text is escaped here, and only here."""

import html
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rljax.analysis.plots import COLORS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_IN_THE_DARK = ("#56a8e0", "#ff8a4c", "#35c79a", "#e59ac8", "#f0b93a", "#8fd0f5", "#b08de0", "#b8b8b8")
"""The lines of `plots.COLORS`, lighter."""


def escape(text: object) -> str:
    """Any text, as HTML that shows it."""
    return html.escape(str(text), quote=True)


def page(title: str, *parts: str) -> str:
    """The whole page, from parts that are HTML already."""
    light, dark = (
        "".join(f"--line{i}: {color}; " for i, color in enumerate(colors)) for colors in (COLORS, _IN_THE_DARK)
    )
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    style += f":root {{ {light}}}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}\n"
    policy = "default-src 'none'; style-src 'unsafe-inline'; media-src data:; img-src data:"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, parts))
        + "\n</main>\n</body>\n</html>\n"
    )


def heading(level: int, text: str) -> str:
    """A heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def code(text: str) -> str:
    """Lines of code."""
    return f"<pre><code>{escape(text)}</code></pre>"


def tiles(pairs: Iterable[tuple[str, str, str]]) -> str:
    """Figures in a row: name, value, and a small line below."""
    small = [(name, value, f"<small>{escape(below)}</small>" if below else "") for name, value, below in pairs]
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}{below}</dd></div>" for name, value, below in small)
    return f"<dl>{rows}</dl>"


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", marked: Iterable[int] = (), text: int = 1
) -> str:
    """A table whose first column heads the rows.

    Args:
      marked: rows to make stand out.
      text: leading columns that are text, to the left; the others are numbers, to the right.
    """
    marked = set(marked)
    head = "".join(f'<th scope="col"{"" if i < text else " class=n"}>{escape(c)}</th>' for i, c in enumerate(columns))
    body = []
    for index, (first, *cells) in enumerate(rows):
        others = "".join(f"<td{'' if i < text else ' class=n'}>{escape(x)}</td>" for i, x in enumerate(cells, 1))
        body.append(f'<tr{" class=mark" if index in marked else ""}><th scope="row">{escape(first)}</th>{others}</tr>')
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="wide"><table>{title}<thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def details(summary: str, *parts: str) -> str:
    """Parts that are shown when asked for."""
    return f"<details><summary>{escape(summary)}</summary>{''.join(parts)}</details>"


def picture(figure: "Figure", description: str, number: int) -> str:
    """A figure of `plots` as inline SVG, whose colours follow the page's.

    Args:
      description: the figure in words, for who cannot see it.
      number: another one for each figure of a page, which keeps their identifiers apart.
    """
    import matplotlib

    buffer = io.StringIO()
    figure.patch.set_alpha(0.0)
    for axes in figure.axes:
        axes.patch.set_alpha(0.0)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rljax"}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )
    svg = re.sub(r'\bid="', f'id="f{number}-', svg)
    svg = re.sub(r'(url\(|xlink:href=")#', rf"\1#f{number}-", svg)
    colors = {"#262626": "currentColor", "#8c8c8c": "var(--faint)", "#e6e6e6": "var(--grid)", "#ffffff": "var(--card)"}
    colors |= {color.lower(): f"var(--line{i})" for i, color in enumerate(COLORS)}
    for color, variable in colors.items():
        svg = svg.replace(color, variable)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)
    return f"<figure>{svg.strip()}</figure>"
