"""What pages for people are made of: one self-contained HTML page, sections, tables. Text in, HTML out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from cluster.web.style import STYLE

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>{style}</style></head>
<body><main>{body}</main></body>
</html>
"""


def render_page(title: str, made_at: float, parts: Iterable[str]) -> str:
    """The page under its title and the time it was made at (seconds since the epoch). It loads nothing from anywhere."""
    when = datetime.fromtimestamp(made_at, UTC)
    head = f"<h1>{escape(title)}<small>{when:%d %B %Y, %H:%M} UTC</small></h1>"
    return _PAGE.format(title=escape(title), style=STYLE, body="\n".join([head, *parts]))


def fact_boxes(boxes: Iterable[tuple[str, str]]) -> str:
    """Boxes of a caption and a figure each."""
    drawn = (f'<div class="fact"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for k, v in boxes)
    return f'<div class="facts">{"".join(drawn)}</div>'


def section(title: str, caption: str, body: str) -> str:
    """``body`` is HTML; title and caption are text."""
    told = f'<p class="caption">{escape(caption)}</p>' if caption else ""
    return (
        f'<section id="{title.split(",")[0].lower().replace(" ", "-")}"><h2>{escape(title)}</h2>{told}{body}</section>'
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], wide_last: bool = False) -> str:
    """Cells are HTML. All but the last column keep their lines whole."""
    body = "".join(f"<tr>{_cells(row, wide_last)}</tr>" for row in rows)
    if not body:
        return ""
    titles = "".join(f"<th>{escape(each)}</th>" for each in head)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _cells(row: Sequence[str], wide_last: bool) -> str:
    cells = [f'<td class="n">{cell}</td>' if len(cell) < 24 or "tag" in cell else f"<td>{cell}</td>" for cell in row]
    if wide_last:
        cells[-1] = f'<td style="width:60%">{row[-1]}</td>'
    return "".join(cells)


def plot(svg: str) -> str:
    return f'<div class="plot">{svg}</div>'


def empty_note(why: str) -> str:
    """A line that stands where there is nothing to show."""
    return f'<p class="none">{escape(why)}</p>'
