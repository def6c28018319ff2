"""One self-contained HTML page of what happened to a model. Values in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from cluster.values import Decision
from cluster.web.page import bar, empty_note, fact_boxes, join, plot, render_page, section, table, tag
from monitoring.detection.detector import WindowResult, day
from monitoring.report import findings, plots
from monitoring.report.schema import Action, Quality, Report

_TURNS = {
    "start": "version {new} is on trial beside version {old}",
    "promote": "version {new} takes over from version {old}",
    "drop": "version {new} is withdrawn, the trial goes on without it",
    "abort": "version {new} is withdrawn, version {old} answers",
    "pause": "the trial of version {new} stands still",
    "resume": "the trial of version {new} goes on",
    "rollback": "version {old} answers again, version {new} no more",
}


def render(report: Report) -> str:
    """The page. It loads nothing from anywhere."""
    parts = [
        fact_boxes(report.facts),
        _quality(report),
        _calibration(report),
        _drift(report),
        findings.performance(report),
        findings.apart(report),
        _rollouts(report),
        _events(report),
        _versions(report),
        findings.costs(report),
        _timings(report),
    ]
    return render_page(report.model, report.made_at, parts)


def _quality(report: Report) -> str:
    if not report.quality:
        return section("Quality over time", "", empty_note("No labelled periods."))
    drawn = join(plot(plots.quality(found)) for found in report.quality)
    return section("Quality over time", " ".join(map(_quality_caption, report.quality)), drawn)


def _quality_caption(found: Quality) -> str:
    told = f"{found.metric} by period, {found.better} is better."
    values = [(v, p) for v, p in zip(found.series[0].values, found.periods, strict=True) if v is not None]
    if len(values) < 2:
        return told
    (best, best_at), *_, (worst, worst_at) = sorted(values, reverse=found.better == "higher")
    name = found.series[0].name
    return f"{told} {name} was best in {best_at} ({best:.3f}) and worst in {worst_at} ({worst:.3f})."


def _calibration(report: Report) -> str:
    if not report.calibration:
        return section("Calibration", "", empty_note("Not a model of probabilities, or no labels."))
    first = report.calibration[0]
    rows = max(1, sum(first.counts))
    gaps = zip(first.predicted, first.observed, first.counts, strict=True)
    error = sum(abs(p - o) * n for p, o, n in gaps) / rows
    caption = (
        f"On the dashed line, what is predicted at 30 % happens 30 % of the time. Over {rows:,} rows the prediction of "
        f"{first.name} was off by {100 * error:.1f} percentage points on average."
    )
    return section("Calibration", caption, plot(plots.calibration(report.calibration), narrow=True))


def _drift(report: Report) -> str:
    judged = [result for result in report.drift if result.judged]
    if not judged:
        return section("Drift", "", empty_note("No window of live traffic was judged yet."))
    drifted = sum(bool(result.drifted) for result in judged)
    caption = (
        f"Each square is one column in one window of live traffic: its distance from the training data, divided by "
        f"what is ordinary there. Blue is ordinary; amber to red is more. Columns in bold can raise the alarm (▼). "
        f"{drifted} of {len(judged)} windows drifted; alarms raised: {len(report.actions)}. {_since(judged)}"
    )
    alarms = [action.alarm for action in report.actions if action.alarm.kind == "drift"]
    rows = [
        (
            _moment(a.at),
            tag("tag alarm", a.alarm.kind),
            a.alarm.reason,
            findings.quality_cost(a.alarm.window, a.alarm.version, report.performance),
            a.done,
        )
        for a in report.actions
    ]
    return section(
        "Drift",
        caption,
        plot(plots.drift_map(judged, alarms))
        + table(("at", "alarm", "why", "what it cost in quality", "what was done"), rows),
    )


def _since(judged: Sequence[WindowResult]) -> str:
    """Which columns are too far now, and since when without a break."""
    began: dict[str, float] = {}
    for result in judged:
        began = {name: began.get(name, result.since) for name in result.drifted}
    told = [
        f"{name} since {day(at)}, now {judged[-1].columns[name].ratio:.1f} x its threshold"
        for name, at in began.items()
    ]
    return f"Too far now: {'; '.join(told)}." if told else "None is too far now."


def _rollouts(report: Report) -> str:
    if not any(rollout.decisions for rollout in report.rollouts):
        return section("Rollouts", "", empty_note("No rollout took place."))
    caption = (
        "Each challenger's share of the traffic. ▲ advanced, ▼ dropped, ★ promoted, ✕ aborted; hover for the reason. "
        "The table leaves out decisions to hold."
    )
    rows = [
        (
            _moment(d.at),
            rollout.name,
            tag(f"tag {d.action}", d.action),
            _share(d),
            d.reason,
        )
        for rollout in report.rollouts
        for d in rollout.decisions
        if d.action != "hold"
    ]
    return section(
        "Rollouts",
        caption,
        plot(plots.rollouts(report.rollouts)) + table(("at", "rollout", "decision", "share", "reason"), rows),
    )


def _events(report: Report) -> str:
    told = [(a.at, "alarm", f"version {a.alarm.version}: {_beyond(a)}", a.done) for a in report.actions]
    told += [(d.at, d.action, r.name, _turn(d)) for r in report.rollouts for d in r.decisions if d.action in _TURNS]
    rows = [(_moment(at), tag(f"tag {kind}", kind), what, then) for at, kind, what, then in sorted(told)]
    body = table(("at", "", "what", "and then"), rows) if rows else empty_note("No rollout, and no alarm.")
    return section("What happened, in order", "Times are UTC, by the clock of the cluster.", body)


def _beyond(action: Action) -> str:
    """Columns beyond their thresholds, as the alarm names them; of another alarm than of drift its kind."""
    if action.alarm.kind != "drift":
        return action.alarm.kind
    ratios = action.alarm.features.items()
    return ", ".join(f"{name} at {ratio:.1f} x its threshold" for name, ratio in ratios if ratio >= 1)


def _turn(decision: Decision) -> str:
    return _TURNS[decision.action].format(new=", ".join(decision.challengers), old=decision.champion)


def _versions(report: Report) -> str:
    if not report.versions:
        return section("Versions", "", empty_note("No version is registered."))
    metrics = list(dict.fromkeys(name for row in report.versions for name in row.metrics))
    rows = [
        (f"v{v.version}", v.role, v.trained_on, *(_figure(v.metrics.get(m)) for m in metrics)) for v in report.versions
    ]
    caption = "Each on the rows it was held out from, so that figures compare only where those are the same."
    return section("Versions", caption, table(("version", "role", "trained on", *metrics), rows))


def _timings(report: Report) -> str:
    if not report.timings:
        return section("Where the time went", "", empty_note("Not measured."))
    total = max(1e-9, sum(t.seconds for t in report.timings))
    most = max(t.seconds for t in report.timings)
    rows = [
        (
            t.stage,
            f"{t.seconds:,.1f} s",
            f"{t.seconds / total:.0%}",
            bar(t.seconds / most),
        )
        for t in sorted(report.timings, key=lambda t: -t.seconds)
    ]
    return section(
        "Where the time went",
        f"{total:,.0f} seconds in all.",
        table(("stage", "time", "share", ""), rows, wide_last=True),
    )


def _share(decision: Decision) -> str:
    # The journal's share is the challenger's; a promoted one is no challenger any more, and has all traffic.
    return "100%" if decision.action == "promote" else f"{decision.share:.0%}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%d %b %H:%M:%S}"
