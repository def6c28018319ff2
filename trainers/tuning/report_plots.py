"""The plots of a search."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from cluster.web.drawing import AMBER, BLUE, FAINT, INK, STYLE, new_figure, to_svg
from trainers.config import Parameter
from trainers.tuning.trial import FinalistResult, Trial, format_settings

LOG_RANGE = 10.0
"""Positive numbers get a logarithmic axis if the largest is at least this many times the smallest."""


class PlotAxis:
    """Positions of the values of one column, 0 at the bottom and 1 at the top, and the axis labels."""

    def __init__(self, name: str, values: Sequence[Parameter]) -> None:
        self.name = name
        numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        self.at, self.ticks = _numbers(values) if numeric else _names(values)


def _numbers(values: Sequence[Parameter]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    numbers = np.array(values, float)
    low, high = numbers.min(), numbers.max()
    if low == high:
        return np.full(len(numbers), 0.5), [(0.5, _label(low))]
    log = low > 0 and high / low >= LOG_RANGE
    scaled = np.log(numbers) if log else numbers
    middle = np.sqrt(low * high) if log else (low + high) / 2
    ticks = [(0.0, _label(low)), (0.5, _label(middle)), (1.0, _label(high))]
    return (scaled - scaled.min()) / (scaled.max() - scaled.min()), ticks


def _label(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e6 else f"{value:.3g}"


def _names(values: Sequence[Parameter]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    names = sorted({str(value) for value in values})
    places = {name: (i + 0.5) / len(names) for i, name in enumerate(names)}
    return np.array([places[str(value)] for value in values]), [(place, name) for name, place in places.items()]


@matplotlib.rc_context(STYLE)
def parallel(trials: Sequence[Trial], best: int, metric: str, direction: str) -> str:
    """Parallel coordinates (Inselberg 1985): a line per trial over its settings and the metric, the best one thick."""
    columns = [PlotAxis(name, [t.parameters[name] for t in trials]) for name in trials[0].parameters]
    columns.append(PlotAxis(metric, [t.metric for t in trials]))
    figure, axes = new_figure(max(6.0, 1.7 * len(columns)), 4.2)
    points = np.column_stack([column.at for column in columns])
    goodness = points[:, -1] if direction == "max" else 1.0 - points[:, -1]
    tips = {}
    for at in np.argsort(goodness, kind="stable"):
        trial, is_best = trials[at], trials[at].number == best
        line = LineCollection(
            [np.column_stack([np.arange(len(columns)), points[at]])],
            colors=AMBER if is_best else BLUE,
            linewidths=2.6 if is_best else 1.3,
            alpha=1.0 if is_best else 0.15 + 0.7 * float(goodness[at]),
            zorder=3 if is_best else 2,
        )
        line.set_gid(f"trial-{trial.number}")
        figures = f"{metric} {trial.metric:.4f}; {format_settings(trial)}"
        tips[f"trial-{trial.number}"] = f"trial {trial.number} ({trial.status}): {figures}"
        axes.add_collection(line)
    _draw_axes(axes, columns)
    return to_svg(figure, "settings and results", tips)


def _draw_axes(axes: Axes, columns: Sequence[PlotAxis]) -> None:
    for x, column in enumerate(columns):
        axes.axvline(x, color=FAINT, lw=1.2, zorder=1)
        for y, text in column.ticks:
            axes.annotate(text, (x, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5, color=INK)
    axes.set_xticks(range(len(columns)), [column.name for column in columns])
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(columns) - 0.6)
    axes.set_ylim(-0.06, 1.06)
    axes.spines[:].set_visible(False)


@matplotlib.rc_context(STYLE)
def spread(finalists: Sequence[FinalistResult], metric: str) -> str:
    """A dot for each seed of each finalist, the best at the top; the bar marks the mean."""
    rows = list(finalists)[::-1]
    figure, axes = new_figure(8.6, 0.9 + 0.34 * len(rows))
    for y, finalist in enumerate(rows):
        axes.plot(finalist.values, [y] * len(finalist.values), "o", color=BLUE, ms=6, alpha=0.7)
        axes.plot([finalist.mean] * 2, [y - 0.28, y + 0.28], color=AMBER, lw=2.4)
    axes.set_yticks(range(len(rows)), [f"trial {finalist.trial}" for finalist in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(f"validation {metric}")
    axes.grid(axis="x")
    return to_svg(figure, "finalists")
