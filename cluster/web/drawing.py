"""Plots as inline SVG that take their colors from the page, so that they are readable in light and dark mode.

``STYLE`` is for matplotlib's ``rc_context``; the page replaces the colors INK, FAINT and PAPER with its own.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Placeholders: matplotlib requires real colors.
INK, FAINT, PAPER = "#010203", "#040506", "#070809"
_PAGE_COLORS = {INK: "currentColor", FAINT: "var(--faint)", PAPER: "var(--paper)"}
BLUE, AMBER = "#3b82c4", "#d98324"
_XMLNS = "http://www.w3.org/2000/svg"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    # A value may contain a dollar sign.
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
}


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of a size in inches, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def to_svg(figure: Figure, name: str, tips: Mapping[str, str] | None = None) -> Markup:
    """Draw a figure as SVG for a page.

    Args:
        figure: The figure.
        name: Its accessible name; equal figures with equal names are equal in every byte.
        tips: Tooltips by the id of the element that shows them.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    label = html.escape(name).replace("\\", r"\\")
    text = re.sub(
        r'<svg [^>]*viewBox="([^"]+)"[^>]*>',
        rf'<svg xmlns="{_XMLNS}" viewBox="\1" role="img" aria-label="{label}">',
        text,
        count=1,
    )
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<g id="patch_1">).*?(</g>)', r"\1\2", text, count=1, flags=re.DOTALL)
    text = text.replace("xlink:href", "href")
    for placeholder, color in _PAGE_COLORS.items():
        text = text.replace(placeholder, color)
    for gid, tip in (tips or {}).items():
        text = text.replace(f'<g id="{gid}">', f'<g id="{gid}" class="tip"><title>{html.escape(tip)}</title>')
    return Markup(text)
