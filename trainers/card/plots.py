"""Plots of the model card, as SVG."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cluster.web.drawing import AMBER, BLUE, FAINT, INK, STYLE, new_figure, to_svg
from trainers.evaluation.bootstrap import Interval
from trainers.evaluation.explanations import Attribution, Importance
from trainers.evaluation.feature_effects import FeatureEffect
from trainers.evaluation.slices import SliceResult

MAX_BARS = 15


@matplotlib.rc_context(STYLE)
def importance(importances: Sequence[Importance], metric: str) -> str:
    """Bars of the loss without each feature, the largest on top; the line is the standard deviation over repeats."""
    shown = list(importances[:MAX_BARS])[::-1]
    figure, axes = _bars(len(shown))
    axes.barh(
        [i.feature for i in shown], [i.loss for i in shown], xerr=[i.spread for i in shown], color=BLUE, ecolor=INK
    )
    axes.set_xlabel(f"loss of {metric} when the feature is shuffled")
    return to_svg(figure, "importance")


@matplotlib.rc_context(STYLE)
def slices(results: Sequence[SliceResult]) -> str:
    """Loss of each slice over that of all other rows; the line reaches down to the lower bound."""
    shown = list(results[:MAX_BARS])[::-1]
    figure, axes = _bars(len(shown))
    names = [s.name for s in shown]
    axes.hlines(names, [s.low for s in shown], [s.ratio for s in shown], color=AMBER, lw=2)
    axes.plot([s.ratio for s in shown], names, "o", color=AMBER, ms=6)
    axes.axvline(1.0, color=INK, lw=0.8, ls=(0, (4, 3)))
    axes.set_xlabel("loss, as a multiple of all other rows'")
    return to_svg(figure, "slices")


@matplotlib.rc_context(STYLE)
def calibration(curve: Sequence[tuple[float, float, int]]) -> str:
    """Predicted against observed rates. ``curve`` has (predicted, observed, rows) for each bin."""
    figure, axes = new_figure(5.0, 4.2)
    axes.plot([0, 1], [0, 1], color=FAINT, lw=1.2, ls=(0, (4, 3)))
    axes.plot([p for p, _, _ in curve], [o for _, o, _ in curve], color=BLUE, lw=2, marker="o", ms=4.5)
    axes.set_xlabel("predicted")
    axes.set_ylabel("observed")
    axes.grid()
    return to_svg(figure, "calibration")


@matplotlib.rc_context(STYLE)
def effect(measured: FeatureEffect) -> str:
    """A line over the values of a number, or bars of categories."""
    if measured.categories:
        figure, axes = _bars(len(measured.categories))
        axes.barh(measured.categories[::-1], measured.effects[::-1], color=BLUE)
        axes.axvline(0.0, color=INK, lw=0.8)
        axes.set_xlabel("effect on the score")
    else:
        figure, axes = new_figure(5.0, 3.0)
        axes.plot(measured.numbers, measured.effects, color=BLUE, lw=2, marker="o", ms=4.5)
        axes.axhline(0.0, color=INK, lw=0.8)
        axes.set_ylabel("effect on the score")
        axes.grid()
    return to_svg(figure, f"effect {measured.feature}")


@matplotlib.rc_context(STYLE)
def attribution(row: Attribution) -> str:
    """The features that move one row's score furthest from the mean score."""
    largest = sorted(row.parts.items(), key=lambda item: -abs(item[1]))[:8][::-1]
    figure, axes = _bars(len(largest))
    names = [f"{name} = {row.values[name]}" if name in row.values else name for name, _ in largest]
    axes.barh(names, [part for _, part in largest], color=[BLUE if part > 0 else AMBER for _, part in largest])
    axes.axvline(0.0, color=INK, lw=0.8)
    axes.set_xlabel(f"part of the score: {row.base:.3g} on average, {row.score:.3g} here")
    return to_svg(figure, row.row)


def format_interval(interval: Interval) -> str:
    """The value and its interval."""
    return f"{interval.value:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def _bars(count: int) -> tuple[Figure, Axes]:
    figure, axes = new_figure(8.6, 0.9 + 0.27 * max(1, count))
    axes.grid(axis="x")
    return figure, axes
