"""The report's plots."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure

from cluster.values import AFTER_PROMOTION, Alarm, Decision
from cluster.web.drawing import FAINT, INK, PAPER, STYLE, new_figure, to_svg
from monitoring.analysis.log_analysis import WindowQuality
from monitoring.detection.detector import WindowResult
from monitoring.report.schema import CalibrationCurve, MetricHistory, RolloutHistory

SERIES = ("#3b82c4", "#d98324", "#6a9f58", "#a874b8", "#8a8f98")
GOOD, BAD, WAIT = "#4c9f70", "#d1495b", "#d98324"

# Blue below the threshold, warm colors above it: a smooth gradient would hide the threshold.
_RATIO = LinearSegmentedColormap.from_list(
    "ratio", [(0, "#8fb8d822"), (0.5, "#6f9dc2"), (0.5, "#efb93f"), (0.75, "#d1495b"), (1, "#7d1d3f")]
)
MAX_RATIO = 2.0
MAX_HEAT_ROWS = 26
_MARKERS = {
    "start": ("o", SERIES[0]),
    "advance": ("^", GOOD),
    "promote": ("*", GOOD),
    "drop": ("v", BAD),
    "abort": ("X", BAD),
    "pause": ("s", WAIT),
    "invalid": ("X", WAIT),
    "resume": ("D", WAIT),
    "hold": (".", SERIES[4]),
}


@matplotlib.rc_context(STYLE)
def plot_quality(history: MetricHistory) -> str:
    """A line for each model over the periods, named at its end; the first one stands out."""
    figure, axes = new_figure(8.6, 3.4)
    x = np.arange(len(history.periods))
    ends = []
    for i, (name, values) in enumerate(history.series.items()):
        y = np.array([np.nan if v is None else v for v in values], float)
        color = SERIES[i % len(SERIES)]
        axes.plot(x, y, color=color, lw=2.6 if i == 0 else 1.5, marker="o", ms=5 if i == 0 else 3.5, zorder=9 - i)
        present = np.flatnonzero(~np.isnan(y))
        if present.size:
            ends.append((float(y[present[-1]]), float(x[present[-1]]), name, color))
    axes.set_xticks(x, history.periods)
    axes.set_xlim(-0.3, max(0.7, len(x) - 0.7))
    axes.grid(axis="y")
    _label_ends(axes, ends)
    return to_svg(figure, f"quality {history.metric}")


@matplotlib.rc_context(STYLE)
def plot_calibration(curves: Sequence[CalibrationCurve]) -> str:
    """Predicted against observed rates, and below them the rows in each bin."""
    figure = Figure(figsize=(5.4, 4.8), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    top.plot([0, 1], [0, 1], color=FAINT, lw=1.2, ls=(0, (4, 3)))
    for i, curve in enumerate(curves):
        color = SERIES[i % len(SERIES)]
        top.plot(curve.predicted, curve.observed, color=color, lw=2, marker="o", ms=4.5, label=curve.name)
        if i == 0 and curve.predicted:
            bottom.vlines(curve.predicted, 0, curve.counts, color=color, alpha=0.6, lw=7)
            bottom.set_ylim(0)
    top.set_ylabel("observed")
    top.grid()
    if curves:
        top.legend(frameon=False, loc="upper left")
    bottom.set_xlabel("predicted")
    bottom.set_ylabel("rows")
    bottom.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(2))
    bottom.yaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
    return to_svg(figure, "calibration")


@matplotlib.rc_context(STYLE)
def plot_drift(results: Sequence[WindowResult], alarms: Sequence[Alarm]) -> str:
    """Columns by window, colored by distance over threshold; monitored columns on top, alarms marked."""
    results = [r for r in results if r.columns]
    names, watched = _heat_rows(results)
    ratios = [[r.columns[name].ratio if name in r.columns else np.nan for r in results] for name in names]
    grid = np.array(ratios, float).reshape(len(names), len(results))
    figure, axes = new_figure(8.6, 1.2 + 0.24 * len(names))
    norm = TwoSlopeNorm(1.0, 0.0, MAX_RATIO)
    drawn = axes.pcolormesh(np.ma.masked_invalid(np.minimum(grid, MAX_RATIO)), cmap=_RATIO, norm=norm, edgecolors=PAPER)
    drawn.set_linewidth(0.7)
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(names)) + 0.5, names)
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_fontweight("bold" if name in watched else "normal")
    axes.set_xticks(*_dates(results))
    for side in axes.spines.values():
        side.set_visible(False)
    for i in _gaps(results):
        axes.axvline(i, color=PAPER, lw=5)
    if 0 < len(watched) < len(names):
        axes.axhline(len(watched), color=INK, lw=0.8)
    _mark_versions(axes, results)
    tips = _mark_alarms(axes, results, alarms)
    bar = figure.colorbar(drawn, ax=axes, pad=0.015, aspect=24, ticks=[0, 0.5, 1, 1.5, 2])
    bar.ax.set_yticklabels(["0", "½", "1 = threshold", "1½", "2 and more"])
    bar.outline.set_visible(False)
    return to_svg(figure, "drift", tips)


@matplotlib.rc_context(STYLE)
def plot_performance(qualities: Sequence[WindowQuality]) -> str:
    """Mean labeled loss by window in a band of its bounds; windows that are worse than the reference are marked."""
    figure, axes = new_figure(8.6, 3.2)
    known = [q for q in qualities if q.limits is not None]
    x = [_date(q.window) for q in known]
    mean = [q.labeled.mean for q in known]
    top = 2 * max(mean, default=1.0)
    low = [max(0.0, q.limits.low) for q in known if q.limits]
    high = [min(top, q.limits.high) for q in known if q.limits]
    axes.fill_between(x, low, high, color=SERIES[0], alpha=0.15, lw=0)
    axes.plot(x, mean, color=SERIES[0], lw=2, marker="o", ms=3.5, label="loss by labels")
    axes.step(x, [q.reference or np.nan for q in known], where="mid", color=SERIES[4], lw=1.3, label="held-out rows")
    _plot_points(axes, [(q.window, q.labeled.mean) for q in known if q.worse], "v", color=BAD, ms=8)
    axes.set_ylim(0)
    axes.grid(axis="y")
    axes.legend(frameon=False, loc="upper left", ncols=2)
    return to_svg(figure, "performance by window")


@matplotlib.rc_context(STYLE)
def plot_estimates(qualities: Sequence[WindowQuality], metric: str) -> str:
    """A metric as each method estimates it, and by labels."""
    figure, axes = new_figure(8.6, 2.8)
    methods = list(dict.fromkeys(method for q in qualities for method in q.estimated))
    for i, method in enumerate(methods):
        points = [(q.window, q.estimated[method][metric]) for q in qualities if metric in q.estimated.get(method, {})]
        style = "o" if len(points) < len(qualities) / 2 else "-"
        _plot_points(axes, points, style, color=SERIES[1 + i], lw=1.5, ms=4, label=method)
    labeled = [(q.window, q.observed[metric]) for q in qualities if metric in q.observed]
    _plot_points(axes, labeled, color=SERIES[0], lw=2.2, label="by labels")
    axes.set_ylabel(metric)
    axes.grid(axis="y")
    axes.legend(frameon=False, loc="best", ncols=3)
    return to_svg(figure, f"estimated {metric}")


def _plot_points(axes: Axes, points: Sequence[tuple[float, float]], *style: str, **options: Any) -> None:
    """Plot values by their time, in seconds since the epoch."""
    axes.plot([_date(at) for at, _ in points], [value for _, value in points], *style, **options)


def _date(seconds: float) -> np.datetime64:
    return np.datetime64(int(seconds), "s")


@matplotlib.rc_context(STYLE)
def plot_rollouts(histories: Sequence[RolloutHistory]) -> str:
    """Each challenger's share over time, a step line for each rollout, a marker for each decision."""
    figure, axes = new_figure(8.6, 3.3)
    begin = min((d.at for r in histories for d in r.decisions), default=0.0)
    unit, name = _unit(max((d.at for r in histories for d in r.decisions), default=1.0) - begin)
    tips: dict[str, str] = {}
    for i, rollout in enumerate(r for r in histories if r.decisions):
        # What follows a promotion may come months later, and is not a step of the rollout.
        steps = [d for d in rollout.decisions if d.action not in AFTER_PROMOTION]
        x = [(d.at - begin) / unit for d in steps]
        y = [100 * d.share for d in steps]
        axes.step(x, y, where="post", color=SERIES[i % len(SERIES)], lw=2.2, alpha=0.9)
        axes.annotate(
            rollout.name, (x[0], -4), va="top", color=SERIES[i % len(SERIES)], fontsize=9, annotation_clip=False
        )
        for j, decision in enumerate(steps):
            # After a promotion there is no challenger left; the mark belongs to the share that it had.
            height = y[j - 1] if j and decision.action == "promote" else y[j]
            tips |= _decision(axes, f"rollout-{i}-{j}", x[j], height, decision)
    axes.set_ylim(-12, 112)
    axes.set_yticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    axes.set_xlabel(name)
    axes.grid(axis="y")
    return to_svg(figure, "rollouts", tips)


def _decision(axes: Axes, gid: str, x: float, y: float, decision: Decision) -> dict[str, str]:
    shape, color = _MARKERS[decision.action]
    size = 15 if shape == "*" else 9 if shape != "." else 6
    axes.plot([x], [y], shape, color=color, ms=size, mec=PAPER, mew=0.8, gid=gid, zorder=5, clip_on=False)
    return {gid: f"{decision.action} at {decision.share:.0%}: {decision.reason}"}


def _heat_rows(results: Sequence[WindowResult]) -> tuple[list[str], set[str]]:
    farthest: dict[str, float] = {}
    for result in results:
        for name, column in result.columns.items():
            farthest[name] = max(farthest.get(name, 0.0), column.ratio)
    watched = {name for result in results for name, column in result.columns.items() if column.watched}
    ordered = sorted(farthest, key=lambda name: (name not in watched, -farthest[name]))[:MAX_HEAT_ROWS]
    return ordered, watched & set(ordered)


def _gaps(results: Sequence[WindowResult]) -> list[int]:
    """Where windows are missing between two neighbors."""
    steps = np.diff([r.window for r in results])
    usual = np.median(steps) if steps.size else 0.0
    return [int(i) + 1 for i in np.flatnonzero(steps > 1.5 * usual)]


def _dates(results: Sequence[WindowResult]) -> tuple[list[float], list[str]]:
    """At most eight labels in window time."""
    places = range(0, len(results), max(1, -(-len(results) // 8)))
    style = "%-d %b" if all(r.window % 86_400 == 0 for r in results) else "%-d %b %H:%M"
    return [i + 0.5 for i in places], [datetime.fromtimestamp(results[i].window, UTC).strftime(style) for i in places]


def _mark_versions(axes: Axes, results: Sequence[WindowResult]) -> None:
    for i, result in enumerate(results):
        if i == 0 or result.version != results[i - 1].version:
            if i:
                axes.axvline(i, color=INK, lw=1)
            axes.text(i + 0.1, -1.25, f"v{result.version}", fontsize=9, va="center")


def _mark_alarms(axes: Axes, results: Sequence[WindowResult], alarms: Sequence[Alarm]) -> dict[str, str]:
    tips = {}
    for i, result in enumerate(results):
        for alarm in alarms:
            if (alarm.version, alarm.window) == (result.version, result.window):
                gid = f"alarm-{i}"
                axes.plot([i + 0.5], [-0.45], "v", color=BAD, ms=9, clip_on=False, gid=gid)
                tips[gid] = alarm.reason
    return tips


def _label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names at the ends of lines, moved apart so that they do not overlap."""
    low, high = axes.get_ylim()
    gap, at = (high - low) * 0.075, -np.inf
    for y, x, name, color in sorted(ends):
        at = max(y, at + gap)
        axes.annotate(
            f"{name}  {y:.3f}", (x, y), (x + 0.12, at), color=color, va="center", fontsize=9.5, annotation_clip=False
        )


def _unit(seconds: float) -> tuple[float, str]:
    for size, name in ((86_400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 3 * size:
            return size, f"{name} since the first rollout began"
    return 1.0, "seconds since the first rollout began"
