"""Self-contained HTML pages of sections, tables and plots, rendered by the Jinja2 templates beside this module.

Every component takes text and returns ``Markup``. A plain ``str`` is escaped, Markup is not: build Markup only with
these functions and ``drawing.to_svg``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from markupsafe import Markup

from cluster.times import format_utc

if TYPE_CHECKING:
    from jinja2 import Environment


def render_page(title: str, made_at: float, parts: Iterable[str]) -> str:
    """The whole page; it loads nothing.

    Args:
        title: Title of the page.
        made_at: When the page was made, in seconds since the epoch.
        parts: Sections and fact boxes.
    """
    time = format_utc(made_at, "%d %B %Y, %H:%M UTC")
    return _environment().get_template("page.html.j2").render(title=title, time=time, parts=parts)


def fact_boxes(boxes: Iterable[tuple[str, str]]) -> Markup:
    """A box for each name and figure."""
    return _component("fact_boxes", boxes)


def section(title: str, caption: str, body: str) -> Markup:
    """A section with a title, an optional caption and its content. Its id is the title up to a comma."""
    return _component("section", title.split(",")[0].lower().replace(" ", "-"), title, caption, body)


def subsection(title: str, text: str, body: str) -> Markup:
    """A part of a section with a small title, an optional paragraph and its content."""
    return _component("subsection", title, text, body)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], wide_last: bool = False) -> Markup:
    """A table; nothing when there is no row. ``wide_last`` gives the last column most of the width."""
    cells = [tuple(row) for row in rows]
    return _component("table", head, cells, wide_last) if cells else Markup()


def plot(svg: str, narrow: bool = False) -> Markup:
    """A plot by drawing.to_svg. ``narrow`` limits its width."""
    return _component("plot", svg, narrow)


def empty_note(reason: str) -> Markup:
    """A line in place of content, which says why there is none."""
    return _component("empty_note", reason)


def tag(style: str, text: str) -> Markup:
    """Text in the color of one or more classes of style.css.j2."""
    return _component("tag", style, text)


def bar(share: float) -> Markup:
    """A bar whose length is ``share`` of the cell, in [0, 1]."""
    return _component("bar", share)


def bullets(items: Iterable[str]) -> Markup:
    """A list of lines."""
    return _component("bullets", items)


def join(parts: Iterable[str]) -> Markup:
    """One component after the other."""
    return Markup().join(parts)


def figure(value: float | None) -> str:
    """A figure with four decimals, or a dash for none."""
    return "-" if value is None else f"{value:.4f}"


def _component(name: str, *values: object) -> Markup:
    return Markup(getattr(_environment().get_template("components.html.j2").module, name)(*values))


@cache
def _environment() -> Environment:
    # Imported with the first page: commands that render none start without Jinja.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("cluster.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
