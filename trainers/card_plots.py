"""The card's plots as inline SVG that take their ink from the page, so that they read on light and on dark alike."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainers.bootstrap import Interval
from trainers.importance import Attribution, Importance
from trainers.slices import Measured

# Stand-ins: matplotlib wants real colours, the page replaces them by its own.
_INK, _FAINT = "#010203", "#040506"
_STANDS_FOR = {_INK: "currentColor", _FAINT: "var(--faint)"}
BLUE, AMBER = "#3b82c4", "#d98324"
MAX_BARS = 15
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    # A value may hold a dollar sign.
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
}


@matplotlib.rc_context(_STYLE)
def importance(found: Sequence[Importance], metric: str) -> str:
    """Bars of what is lost without each feature, the largest on top; the line is the spread over repeats."""
    shown = list(found[:MAX_BARS])[::-1]
    figure, axes = _bars(len(shown))
    axes.barh(
        [i.feature for i in shown], [i.lost for i in shown], xerr=[i.spread for i in shown], color=BLUE, ecolor=_INK
    )
    axes.set_xlabel(f"{metric} lost when the feature is shuffled")
    return _svg(figure, "importance")


@matplotlib.rc_context(_STYLE)
def slices(found: Sequence[Measured]) -> str:
    """Loss of each slice over that of all other rows; the line reaches down to what is sure."""
    shown = list(found[:MAX_BARS])[::-1]
    figure, axes = _bars(len(shown))
    names = [s.name for s in shown]
    axes.hlines(names, [s.low for s in shown], [s.ratio for s in shown], color=AMBER, lw=2)
    axes.plot([s.ratio for s in shown], names, "o", color=AMBER, ms=6)
    axes.axvline(1.0, color=_INK, lw=0.8, ls=(0, (4, 3)))
    axes.set_xlabel("loss, as a multiple of all other rows'")
    return _svg(figure, "slices")


@matplotlib.rc_context(_STYLE)
def calibration(curve: Sequence[tuple[float, float, int]]) -> str:
    """Predicted against observed, (predicted, observed, rows) for each bin."""
    figure = Figure(figsize=(5.0, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=_FAINT, lw=1.2, ls=(0, (4, 3)))
    axes.plot([p for p, _, _ in curve], [o for _, o, _ in curve], color=BLUE, lw=2, marker="o", ms=4.5)
    axes.set_xlabel("predicted")
    axes.set_ylabel("happened")
    axes.grid()
    return _svg(figure, "calibration")


@matplotlib.rc_context(_STYLE)
def attribution(found: Attribution) -> str:
    """The features that moved one row's score the most, away from the mean score."""
    largest = sorted(found.parts.items(), key=lambda item: -abs(item[1]))[:8][::-1]
    figure, axes = _bars(len(largest))
    names = [f"{name} = {found.values[name]}" if name in found.values else name for name, _ in largest]
    axes.barh(names, [part for _, part in largest], color=[BLUE if part > 0 else AMBER for _, part in largest])
    axes.axvline(0.0, color=_INK, lw=0.8)
    axes.set_xlabel(f"part of the score: {found.base:.3g} on average, {found.score:.3g} here")
    return _svg(figure, found.row)


def interval(found: Interval) -> str:
    return f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f})"


def _bars(count: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.6, 0.9 + 0.27 * max(1, count)), layout="constrained")
    axes = figure.subplots()
    axes.grid(axis="x")
    return figure, axes


def _svg(figure: Figure, name: str) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    head = r'<svg xmlns="http://www.w3.org/2000/svg" viewBox="\1" role="img" aria-label="' + name + '">'
    text = re.sub(r'<svg [^>]*viewBox="([^"]+)"[^>]*>', head, text, count=1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL).replace("xlink:href", "href")
    for stand_in, colour in _STANDS_FOR.items():
        text = text.replace(stand_in, colour)
    return text
