"""The report's sections on what looks have found: performance with and without labels, parts of the traffic, cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cluster.web.page import empty_note, join, plot, section, table, tag
from monitoring.analysis.log_analysis import Looked, WindowQuality
from monitoring.detection.detector import WindowResult, day
from monitoring.report import plots
from monitoring.report.schema import Cost, Report

HALF = 0.5
"""Share of labels from which an estimate is held against the truth."""
SHOWN = 12


def performance(report: Report) -> str:
    """Loss by labels with its limits, estimates beside the truth, and segments that lose most."""
    whole = [q for q in report.performance if not q.segment]
    if not whole:
        return section("Performance by window", "", empty_note("No window was looked at yet."))
    body = plot(plots.performance(whole))
    if (metric := shared_metric(whole)) is not None:
        body += plot(plots.estimates(whole, metric))
    return section("Performance by window", _told(whole, metric), body + _segments(report.performance))


def apart(report: Report) -> str:
    """What told live rows from training rows, and which parts of the traffic moved since when."""
    if not report.looks:
        return section("What the rows themselves show", "", empty_note("No window was looked at yet."))
    rows = [*_multivariate(report.looks), *_parts(report.looks)]
    caption = (
        "A classifier told live rows from training rows with the AUC given, 0.5 being no difference, most by the columns "
        "named; segments and labels were each compared with their own past. Times are those of windows."
    )
    body = table(("what", "since", "newest", "how much", "by"), rows) or empty_note("Nothing beyond what is ordinary.")
    faults = dict.fromkeys(fault for looked in report.looks[-3:] for fault in looked.faults)
    return section("What the rows themselves show", caption, body + join(empty_note(fault) for fault in faults))


def costs(report: Report) -> str:
    """What the model's replicas hold, and what that costs."""
    if report.cost is None:
        return section("Cost", "", empty_note("No replica has told of itself yet."))
    found, used = report.cost, report.cost.used
    busy = used.cpu_s / used.reserved_cpu_s if used.reserved_cpu_s else 0.0
    rows = [
        ("CPU, reserved", f"{used.reserved_cpu_s / 3600:,.2f} h", f"{busy:.0%} of it used"),
        ("GPU, reserved", f"{used.reserved_gpu_s / 3600:,.2f} h", ""),
        ("memory held", f"{used.gib_s / 3600:,.2f} GiB h", ""),
        ("requests", f"{used.requests:,}", _per_request(found)),
    ]
    tags = ", ".join(f"{name} {value}" for name, value in found.tags.items()) or "the project declares no tags"
    caption = f"{found.total:,.4g} in all, by the prices of the settings; {tags}."
    return section("Cost", caption, table(("", "how much", ""), rows))


def quality_cost(window: float, version: str, found: Sequence[WindowQuality]) -> str:
    """What an alarm's window, and the few after it, lost by labels against held-out rows."""
    after = [q for q in found if not q.segment and q.version == version and q.window >= window and q.labelled.n][:3]
    known = [q for q in after if q.reference]
    if not known:
        return "no labels yet"
    loss = sum(q.labelled.mean * q.labelled.n for q in known) / sum(q.labelled.n for q in known)
    change = loss / (known[0].reference or 1.0) - 1.0
    return f"loss {loss:.3g}, {change:+.0%} against held-out rows ({sum(q.labelled.n for q in known):,} labels)"


def shared_metric(whole: Sequence[WindowQuality]) -> str | None:
    """The metric that is both estimated and observed, accuracy before others."""
    told = {m for q in whole for metrics in q.estimated.values() for m in metrics}
    for name in ("accuracy", "mae"):
        if name in told:
            return name
    return None


def estimate_errors(whole: Sequence[WindowQuality], metric: str) -> dict[str, tuple[float, int]]:
    """Of each method, the mean absolute error against the truth, over how many windows with labels enough."""
    errors: dict[str, list[float]] = {}
    for q in whole:
        for method, metrics in q.estimated.items():
            if q.labelled.share >= HALF and metric in metrics and metric in q.observed:
                errors.setdefault(method, []).append(abs(metrics[metric] - q.observed[metric]))
    return {method: (sum(found) / len(found), len(found)) for method, found in errors.items()}


def _told(whole: Sequence[WindowQuality], metric: str | None) -> str:
    worse = sum(q.worse for q in whole)
    told = (
        "Mean loss of the rows whose labels have come, window by window; the band holds the true mean at every look, however "
        f"few labels there are. {worse} of {len(whole)} windows are worse than held-out rows for sure."
    )
    for method, (error, windows) in estimate_errors(whole, metric).items() if metric else ():
        told += f" {method} was off by {error:.3g} of {metric} on average over {windows} windows."
    return told


def _segments(found: Sequence[WindowQuality]) -> str:
    newest = {(q.version, q.segment): q for q in found if q.segment and q.labelled.n and q.reference}
    ordered = sorted(newest.values(), key=lambda q: -(q.labelled.mean / (q.reference or 1.0)))[:SHOWN]
    rows = [
        (
            q.segment,
            day(q.window),
            f"{q.labelled.n:,} of {q.labelled.rows:,}",
            f"{q.labelled.mean:.3g}",
            f"{q.reference:.3g}",
            tag("tag alarm", "worse") if q.worse else "",
        )
        for q in ordered
    ]
    return table(("segment", "window", "labels", "loss", "held out", ""), rows)


def _multivariate(looks: Sequence[Looked]) -> Iterable[Sequence[str]]:
    seen = [one for one in looks if one.multivariate is not None]
    if not seen:
        return
    newest = seen[-1].multivariate
    assert newest is not None
    since = _since([(one.window, bool(one.multivariate and one.multivariate.drifted)) for one in seen])
    by = ", ".join(f"{name} {share:.0%}" for name, share in newest.separation.ranked[:5])
    much = f"AUC {newest.separation.auc:.3f} ({newest.separation.low:.3f} to {newest.separation.high:.3f}), p = {newest.p_value:.2g}"
    yield ("all columns together", since, day(seen[-1].window), much, by)


def _parts(looks: Sequence[Looked]) -> Iterable[Sequence[str]]:
    series: dict[str, list[tuple[float, WindowResult]]] = {}
    for one in looks:
        parts = {**one.segments, **({"labels": one.labels} if one.labels is not None else {})}
        for name, result in parts.items():
            series.setdefault(name, []).append((one.window, result))
    for name, found in series.items():
        window, result = found[-1]
        if result.drifted:
            since = _since([(at, bool(r.drifted)) for at, r in found])
            much = f"{result.columns[result.drifted[0]].ratio:.1f} x its threshold"
            yield (name, since, day(window), much, ", ".join(result.drifted[:5]))


def _since(series: Sequence[tuple[float, bool]]) -> str:
    """The first window of the spell that the newest one is part of; "" when that one is quiet."""
    began = ""
    for window, moved in reversed(series):
        if not moved:
            break
        began = day(window)
    return began


def _per_request(found: Cost) -> str:
    return f"{1e6 * found.total / found.used.requests:,.4g} for a million" if found.used.requests else ""
