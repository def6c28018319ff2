"""The report of a model: one self-contained HTML page. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import merge

from cluster.times import format_utc
from cluster.values import Alarm, Decision
from cluster.web.page import bar, empty_note, fact_boxes, figure, join, plot, render_page, section, table, tag
from monitoring.detection.detector import WindowResult, format_day
from monitoring.report import plots
from monitoring.report.log_analysis_sections import (
    fairness_section,
    performance_section,
    quality_cost,
    traffic_section,
)
from monitoring.report.schema import AlarmOutcome, MetricHistory, MonitoringReport

_SECONDS = "%d %b %H:%M:%S"
_DECISIONS = {
    "start": "version {new} starts beside version {old}",
    "promote": "version {new} replaces version {old}",
    "drop": "version {new} is withdrawn, the rollout continues without it",
    "abort": "version {new} is withdrawn, version {old} stays",
    "pause": "the rollout of version {new} pauses",
    "invalid": "the evidence on version {new} is invalid; the rollout pauses",
    "resume": "the rollout of version {new} resumes",
    "rollback": "version {old} is restored, version {new} is withdrawn",
    "confirm": "labels confirm version {new}",
    "alarm": "labels show harm of version {new}, which stays",
    "expire": "labels did not decide on version {new} in time",
    "supersede": "the next rollout starts before labels decide on version {new}",
}


def render_report(report: MonitoringReport) -> str:
    """Render the page. It loads nothing from elsewhere."""
    parts = [
        fact_boxes(report.facts),
        _quality(report),
        _calibration(report),
        _drift(report),
        performance_section(report),
        fairness_section(report),
        traffic_section(report),
        _rollouts(report),
        _events(report),
        _retraining(report),
        _versions(report),
        _cost(report),
        _timings(report),
    ]
    return render_page(report.model, report.made_at, parts)


def _quality(report: MonitoringReport) -> str:
    if not report.quality:
        return section("Quality over time", "", empty_note("No labeled periods."))
    drawn = join(plot(plots.plot_quality(history)) for history in report.quality)
    return section("Quality over time", " ".join(map(_quality_caption, report.quality)), drawn)


def _quality_caption(history: MetricHistory) -> str:
    metric = f"{history.metric} by period, {history.better} is better."
    name, series = next(iter(history.series.items()))
    values = [(value, period) for value, period in zip(series, history.periods, strict=True) if value is not None]
    if len(values) < 2:
        return metric
    (best, best_at), *_, (worst, worst_at) = sorted(values, reverse=history.better == "higher")
    return f"{metric} {name} was best in {best_at} ({best:.3f}) and worst in {worst_at} ({worst:.3f})."


def _calibration(report: MonitoringReport) -> str:
    if not report.calibration:
        return section("Calibration", "", empty_note("The model predicts no probabilities, or there are no labels."))
    first = report.calibration[0]
    rows = max(1, sum(first.counts))
    gaps = zip(first.predicted, first.observed, first.counts, strict=True)
    error = sum(abs(p - o) * n for p, o, n in gaps) / rows
    caption = (
        f"On the dashed line, what is predicted at 30 % happens 30 % of the time. Over {rows:,} rows the predictions "
        f"of {first.name} were off by {100 * error:.1f} percentage points on average."
    )
    return section("Calibration", caption, plot(plots.plot_calibration(report.calibration), narrow=True))


def _drift(report: MonitoringReport) -> str:
    evaluated = [result for result in report.drift if result.judged]
    if not evaluated:
        return section("Drift", "", empty_note("No window of live traffic has closed yet."))
    drifted = sum(bool(result.drifted) for result in evaluated)
    caption = (
        f"Each square is one column in one window of live traffic: its distance from the training data, divided by its "
        f"threshold. Blue squares are within the threshold; amber to red squares exceed it. "
        f"Columns in bold can raise an alarm (▼). {drifted} of {len(evaluated)} windows drifted; "
        f"alarms raised: {len(report.actions)}. {_since(evaluated)}"
    )
    alarms = [action.alarm for action in report.actions if action.alarm.kind == "drift"]
    costs = [quality_cost(a.alarm.window, a.alarm.version, report.performance) for a in report.actions]
    rows = [
        (format_utc(a.at, _SECONDS), tag("tag alarm", a.alarm.kind), a.alarm.reason, _spent(a.alarm), cost, a.outcome)
        for a, cost in zip(report.actions, costs, strict=True)
    ]
    headings = ("at", "alarm", "reason", "level; false ones in 30 days", "effect on quality", "action")
    listed = table(headings, rows)
    return section("Drift", caption, plot(plots.plot_drift(evaluated, alarms)) + listed)


def _spent(alarm: Alarm) -> str:
    """What an alarm's window could spend on its kind, and how many false ones of it a month has at most."""
    return "" if alarm.level is None or alarm.monthly is None else f"{alarm.level:.2g}; {alarm.monthly:.2g}"


def _since(results: Sequence[WindowResult]) -> str:
    """Which columns are beyond their thresholds now, and since when without interruption."""
    began: dict[str, float] = {}
    for result in results:
        began = {name: began.get(name, result.since) for name in result.drifted}
    columns = [
        f"{name} since {format_day(at)}, now {results[-1].columns[name].ratio:.1f} x its threshold"
        for name, at in began.items()
    ]
    return f"Beyond the threshold now: {'; '.join(columns)}." if columns else "No column is beyond its threshold now."


def _rollouts(report: MonitoringReport) -> str:
    if not any(rollout.decisions for rollout in report.rollouts):
        return section("Rollouts", "", empty_note("There was no rollout."))
    caption = (
        "Each challenger's share of the traffic. ▲ advanced, ▼ dropped, ★ promoted, ✕ aborted; hover for the reason. "
        "The table omits decisions to hold."
    )
    rows = [
        (format_utc(d.at, _SECONDS), rollout.name, tag(f"tag {d.action}", d.action), _share(d), d.reason)
        for rollout in report.rollouts
        for d in rollout.decisions
        if d.action != "hold"
    ]
    listed = table(("at", "rollout", "decision", "share", "reason"), rows)
    return section("Rollouts", caption, plot(plots.plot_rollouts(report.rollouts)) + listed)


def _events(report: MonitoringReport) -> str:
    alarms = [(a.at, "alarm", f"version {a.alarm.version}: {_beyond(a)}", a.outcome) for a in report.actions]
    decisions = [
        (d.at, d.action, r.name, _describe(d)) for r in report.rollouts for d in r.decisions if d.action in _DECISIONS
    ]
    # Each of the two keeps its own order, also where the clock was set back.
    events = merge(alarms, decisions, key=lambda event: event[0])
    rows = [(format_utc(at, _SECONDS), tag(f"tag {kind}", kind), what, then) for at, kind, what, then in events]
    body = table(("at", "", "event", "outcome"), rows) if rows else empty_note("There was no rollout and no alarm.")
    return section("Events in order", "Times are UTC, by the clock of the cluster.", body)


def _beyond(action: AlarmOutcome) -> str:
    """Columns beyond their thresholds, as the alarm names them; for alarms other than drift, the kind."""
    if action.alarm.kind != "drift":
        return action.alarm.kind
    ratios = action.alarm.features.items()
    return ", ".join(f"{name} at {ratio:.1f} x its threshold" for name, ratio in ratios if ratio >= 1)


def _describe(decision: Decision) -> str:
    return _DECISIONS[decision.action].format(new=", ".join(decision.challengers), old=decision.champion)


def _retraining(report: MonitoringReport) -> str:
    if not report.retraining:
        return section("Retraining", "", empty_note("No trigger or alarm has started a retraining."))
    rows = [
        (format_utc(e.at), e.event, e.reason, e.by or e.job, e.outcome or ("running" if e.in_progress else ""))
        for e in report.retraining
    ]
    caption = "What triggers and alarms started, what did not start in time or within the budget, and who paused it."
    listed = table(("time (UTC)", "event", "reason", "by", "outcome"), rows)
    return section("Retraining", caption, join([listed, _gains(report)]))


def _gains(report: MonitoringReport) -> str:
    """What each retrained version gained, on the labeled rows that it answered after its promotion."""
    if not report.gains:
        return empty_note("No retrained version has been promoted and received labels since.")
    rows = [
        (f"v{g.version}", format_utc(g.promoted), f"{g.rows:,}", figure(g.loss), f"v{g.replaced}",
         figure(g.replaced_loss), figure(g.low), figure(g.high))
        for g in report.gains
    ]  # fmt: skip
    names = ("retrained", "promoted (UTC)", "labeled rows", "loss", "replaced", "its loss", "difference from", "to")
    return table(names, rows)


def _versions(report: MonitoringReport) -> str:
    if not report.versions:
        return section("Versions", "", empty_note("No version is registered."))
    metrics = list(dict.fromkeys(name for row in report.versions for name in row.metrics))
    rows = [
        (f"v{v.version}", v.role, v.trained_on, v.because, *(figure(v.metrics.get(m)) for m in metrics))
        for v in report.versions
    ]
    caption = "Each version on its own held-out rows: metrics compare only where these are the same."
    return section("Versions", caption, table(("version", "role", "trained on", "retrained because", *metrics), rows))


def _cost(report: MonitoringReport) -> str:
    if report.cost is None:
        return section("Cost", "", empty_note("No replica has reported yet."))
    cost, used = report.cost, report.cost.usage
    busy = used.cpu_s / used.reserved_cpu_s if used.reserved_cpu_s else 0.0
    per_million = f"{1e6 * cost.total / used.requests:,.4g} per million" if used.requests else ""
    rows = [
        ("CPU, reserved", f"{used.reserved_cpu_s / 3600:,.2f} h", f"{busy:.0%} of it used"),
        ("GPU, reserved", f"{used.reserved_gpu_s / 3600:,.2f} h", ""),
        ("memory", f"{used.gib_s / 3600:,.2f} GiB h", ""),
        ("requests", f"{used.requests:,}", per_million),
    ]
    tags = ", ".join(f"{name} {value}" for name, value in cost.tags.items()) or "the project declares no tags"
    caption = f"{cost.total:,.4g} in total, at the prices in the settings; {tags}."
    return section("Cost", caption, table(("", "amount", ""), rows))


def _timings(report: MonitoringReport) -> str:
    if not report.timings:
        return section("Time by stage", "", empty_note("Not measured."))
    total, most = max(1e-9, sum(report.timings.values())), max(report.timings.values())
    rows = [
        (stage, f"{seconds:,.1f} s", f"{seconds / total:.0%}", bar(seconds / most))
        for stage, seconds in sorted(report.timings.items(), key=lambda item: -item[1])
    ]
    listed = table(("stage", "time", "share", ""), rows, wide_last=True)
    return section("Time by stage", f"{total:,.0f} seconds in total.", listed)


def _share(decision: Decision) -> str:
    # The journal has the challengers' share; a promoted version is no longer one, and has all traffic.
    return "100%" if decision.action == "promote" else f"{decision.share:.0%}"
