"""Report sections about log analyses: performance with and without labels, and drift in logged rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cluster.web.page import empty_note, join, plot, section, table, tag
from monitoring.analysis.group_disparity import GroupDisparity
from monitoring.analysis.log_analysis import AnalysisResult, WindowQuality
from monitoring.detection.detector import WindowResult, format_day
from monitoring.report import plots
from monitoring.report.schema import MonitoringReport

MIN_LABEL_SHARE = 0.5
"""Share of labels from which an estimate is compared with the observed metric."""
MAX_ESTIMATES = 7
"""Windows whose estimates the report lists, the newest."""
MAX_SEGMENTS = 12
"""Segments that the report lists, those with the largest losses."""


def performance_section(report: MonitoringReport) -> str:
    """Labeled loss with its bounds, estimates next to observed metrics, and the segments with the largest losses."""
    qualities = [q for q in report.performance if not q.segment]
    if not qualities:
        return section("Performance by window", "", empty_note("No window has been analyzed yet."))
    body = plot(plots.plot_performance(qualities))
    if (metric := shared_metric(qualities)) is not None:
        body += plot(plots.plot_estimates(qualities, metric))
    body += _estimates(qualities) + _segments(report.performance)
    return section("Performance by window", _performance_caption(qualities, metric), body)


def traffic_section(report: MonitoringReport) -> str:
    """Which columns separate live rows from training rows, and which segments drifted since when."""
    if not report.analyses:
        return section("Drift in logged rows", "", empty_note("No window has been analyzed yet."))
    rows = [*_multivariate_rows(report.analyses), *_segment_rows(report.analyses)]
    caption = (
        "A classifier separates live rows from training rows with this AUC (0.5 is no difference), mostly by these "
        "columns; segments and labels are each compared with their own past. Times are those of windows."
    )
    body = table(("rows", "since", "newest", "size", "columns"), rows) or empty_note(
        "Nothing is beyond ordinary variation."
    )
    faults = dict.fromkeys(fault for result in report.analyses[-3:] for fault in result.faults)
    return section("Drift in logged rows", caption, body + join(empty_note(fault) for fault in faults))


def fairness_section(report: MonitoringReport) -> str:
    """Rates of the groups whose differences have limits; nothing where none has."""
    if not report.analyses or not report.analyses[-1].disparities:
        return ""
    caption = (
        "Rates of each group in the windows that show a difference most surely. The bound holds at every analysis: a "
        "limit is exceeded when the largest difference is at least that, with confidence."
    )
    rows = [row for disparity in report.analyses[-1].disparities for row in _group_rows(disparity)]
    headings = ("limit", "since", "group", "rows", "rate", "difference", "")
    return section("Differences between groups", caption, table(headings, rows))


def _group_rows(disparity: GroupDisparity) -> Iterable[Sequence[str]]:
    allowed = f"{disparity.name}, {disparity.limit:.3g} allowed"
    shown = f"{disparity.difference:.3g}, at least {disparity.low:.3g}"
    for name, group in disparity.groups.items():
        mark = tag("tag alarm", "exceeded") if disparity.exceeded and name in disparity.extremes else ""
        yield (allowed, format_day(disparity.since), name, f"{group.rows:,}", f"{group.value:.3g}", shown, mark)


def quality_cost(window: float, version: str, qualities: Sequence[WindowQuality]) -> str:
    """Loss by labels of an alarm's window and the next two, against held-out rows."""
    after = [q for q in qualities if not q.segment and q.version == version and q.window >= window and q.labeled.n][:3]
    known = [q for q in after if q.reference]
    if not known:
        return "no labels yet"
    loss = sum(q.labeled.mean * q.labeled.n for q in known) / sum(q.labeled.n for q in known)
    change = loss / (known[0].reference or 1.0) - 1.0
    return f"loss {loss:.3g}, {change:+.0%} against held-out rows ({sum(q.labeled.n for q in known):,} labels)"


def shared_metric(qualities: Sequence[WindowQuality]) -> str | None:
    """The metric to compare estimates by: accuracy or mean absolute error; None when neither is estimated."""
    estimated = {m for q in qualities for metrics in q.estimated.values() for m in metrics}
    return next((name for name in ("accuracy", "mae") if name in estimated), None)


def estimate_errors(qualities: Sequence[WindowQuality], metric: str) -> dict[str, tuple[float, int]]:
    """Mean absolute error of each method against the observed metric, and the windows with enough labels for it."""
    errors: dict[str, list[float]] = {}
    for q in qualities:
        for method, metrics in q.estimated.items():
            if q.labeled.share >= MIN_LABEL_SHARE and metric in metrics and metric in q.observed:
                errors.setdefault(method, []).append(abs(metrics[metric] - q.observed[metric]))
    return {method: (sum(gaps) / len(gaps), len(gaps)) for method, gaps in errors.items()}


def _performance_caption(qualities: Sequence[WindowQuality], metric: str | None) -> str:
    worse = sum(q.worse for q in qualities)
    caption = (
        "Mean loss of the rows whose labels have arrived, window by window; the band covers the true mean at every "
        f"analysis, however few labels there are. {worse} of {len(qualities)} windows are worse than held-out rows."
    )
    for method, (error, windows) in estimate_errors(qualities, metric).items() if metric else ():
        caption += f" On average over {windows} windows, {method} misses {metric} by {error:.3g}."
    return caption


def _estimates(qualities: Sequence[WindowQuality]) -> str:
    """The newest windows' intervals without labels, beside what labels have shown since, and why there is none."""
    newest = [q for q in qualities if q.estimate is not None][-MAX_ESTIMATES:]
    rows = []
    for q in newest:
        assert q.estimate is not None
        for name, i in q.estimate.intervals.items():
            seen = f"{q.observed[name]:.3g}" if name in q.observed else ""
            rows.append((format_day(q.window), name, f"{i.value:.3g}", f"{i.low:.3g} to {i.high:.3g}", seen))
        if q.estimate.code:
            rows.append((format_day(q.window), tag("tag alarm", q.estimate.code), "", q.estimate.reason, ""))
    return table(("window", "metric", "without labels", "95 % interval", "labels so far"), rows)


def _segments(qualities: Sequence[WindowQuality]) -> str:
    newest = {(q.version, q.segment): q for q in qualities if q.segment and q.labeled.n and q.reference}
    ordered = sorted(newest.values(), key=lambda q: -(q.labeled.mean / (q.reference or 1.0)))[:MAX_SEGMENTS]
    rows = [
        (
            q.segment,
            format_day(q.window),
            f"{q.labeled.n:,} of {q.labeled.rows:,}",
            f"{q.labeled.mean:.3g}",
            f"{q.reference:.3g}",
            tag("tag alarm", "worse") if q.worse else "",
        )
        for q in ordered
    ]
    return table(("segment", "window", "labels", "loss", "held out", ""), rows)


def _multivariate_rows(analyses: Sequence[AnalysisResult]) -> Iterable[Sequence[str]]:
    measured = [(analysis.window, analysis.multivariate) for analysis in analyses if analysis.multivariate is not None]
    if not measured:
        return
    window, newest = measured[-1]
    since, separation = _since([(at, drift.drifted) for at, drift in measured]), newest.separation
    by = ", ".join(f"{name} {share:.0%}" for name, share in separation.ranked[:5])
    much = f"AUC {separation.auc:.3f} ({separation.low:.3f} to {separation.high:.3f}), p = {newest.p_value:.2g}"
    yield ("all columns together", since, format_day(window), much, by)


def _segment_rows(analyses: Sequence[AnalysisResult]) -> Iterable[Sequence[str]]:
    series: dict[str, list[tuple[float, WindowResult]]] = {}
    for analysis in analyses:
        parts = analysis.segments | ({"labels": analysis.labels} if analysis.labels is not None else {})
        for name, result in parts.items():
            series.setdefault(name, []).append((analysis.window, result))
    for name, results in series.items():
        window, result = results[-1]
        if result.drifted:
            since = _since([(at, bool(r.drifted)) for at, r in results])
            much = f"{result.columns[result.drifted[0]].ratio:.1f} x its threshold"
            yield (name, since, format_day(window), much, ", ".join(result.drifted[:5]))


def _since(series: Sequence[tuple[float, bool]]) -> str:
    """First window of the episode that the newest one belongs to; "" when that one is quiet."""
    began = ""
    for window, moved in reversed(series):
        if not moved:
            break
        began = format_day(window)
    return began
