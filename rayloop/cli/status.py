"""``rayloop status``: the deployments and their health."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.exceptions import RayError

from cluster import connection
from cluster.actors import find_actor, get_result
from cluster.errors import RayloopError
from cluster.names import log_writer_actor, monitor_actor, rollout_actor
from cluster.settings import Settings
from cluster.times import format_utc
from deployments.analysis.evidence import ComparisonEvidence
from deployments.rollout.probation import LateVerdict
from deployments.rollout.rollout_status import RolloutStatus
from deployments.rollout.serve_config import connect_config_writer
from deployments.rollout.serve_details import DeploymentStatus, deployment_statuses
from deployments.rollout.state_machine import RolloutState, format_due, format_versions
from deployments.rollout_policy import DAY_S
from monitoring.retraining.retrain_scheduler import ScheduleStatus
from rayloop.cli.rollout_commands import rollout_summary
from rayloop.cli.schedule_command import describe_run
from rayloop.served_models import list_models
from rayloop.stages.alarm_jobs import JOB_ACTIONS, describe_job

_RECENT_ALARMS = 3
_LIMIT_S = 10.0
"""Seconds in which an actor must answer."""


def show_status(settings: Settings, print_line: Callable[[str], None]) -> None:
    """Print the cluster's resources, and for each model its version, rollout, drift and cost."""
    connection.connect(settings)
    resources, free = ray.cluster_resources(), ray.available_resources()
    cpus = f"{free.get('CPU', 0):g} of {resources.get('CPU', 0):g} CPUs free"
    nodes = sum(node["Alive"] for node in ray.nodes())
    print_line(f"cluster {settings.dashboard}: {nodes} nodes, {cpus}, {resources.get('GPU', 0):g} GPUs")
    models = list_models()
    health = deployment_statuses(settings, models) if models else {}
    for model in models:
        # One model's actor may hang, or its store; the others are shown.
        try:
            for line in _describe_model(settings, model, health.get(model)):
                print_line(line)
        except (RayloopError, RayError) as error:
            print_line(f"  {model}: cannot read the rest of the status: {error}")
    if not models:
        print_line("no model is served; `rayloop run <project>` serves one")


def _describe_model(settings: Settings, model: str, health: DeploymentStatus | None) -> Iterator[str]:
    served = get_result(connect_config_writer(settings).current_config.remote(model), _LIMIT_S)
    yield f"\n{model}: " + (f"champion v{served.champion.version}{_replicas(health)}" if served else "not served")
    lost = get_result(find_actor(log_writer_actor(model)).lost_rows.remote(), _LIMIT_S)
    if lost["replicas"]:
        rows = f"{lost['predictions']:,} predictions and {lost['labels']:,} labels"
        yield f"  log: {rows} were lost with {lost['replicas']} killed replica{'s' * (lost['replicas'] > 1)}"
    if served and served.split:
        for challenger in served.split.challengers:
            share, copies = 100 * served.split.share, 100 * served.split.copies
            kind = "challenger" if share else "former champion"
            yield f"  {kind} v{challenger.version} at {share:.3g}%" + (f", copies of {copies:.3g}%" if copies else "")
    if (rollout := find_actor(rollout_actor(model))) is not None:
        yield from describe_rollout(get_result(rollout.status.remote(), _LIMIT_S), time.time())
    if (monitor := find_actor(monitor_actor(model))) is not None:
        yield from describe_monitor(settings, get_result(monitor.status.remote(), _LIMIT_S))
    yield f"  {settings.endpoint}/v2/models/{model}"


def _replicas(health: DeploymentStatus | None) -> str:
    if health is None:
        return ""
    counts = f", {health.running} of {health.desired} replicas run"
    return f"{counts}: {health.problem}" if health.problem else counts


def describe_monitor(settings: Settings, status: dict[str, Any]) -> Iterator[str]:
    """Describe a drift monitor: windows, recent alarms and what was done, the newest log analysis, the model's cost.

    Args:
        settings: Where the jobs run that alarms submitted.
        status: The answer of the monitor's ``status``.
    """
    drifting = "DRIFTING" if status["drifting"] else "quiet"
    last = status["last_window"]
    skipped = f" (no verdict on the last one: {last['note']})" if last and not last["judged"] else ""
    yield f"  drift: {drifting}, {status['windows']} windows closed{skipped}, {len(status['alarms'])} alarms"
    if expected := status["false_alarms"]:
        parts = ", ".join(f"{kind} {monthly:.2g}" for kind, monthly in expected.items())
        yield f"  false alarms expected in 30 days: at most {sum(expected.values()):.2g} ({parts})"
    for entry in recent_alarms(status["alarms"]):
        yield f"    {format_utc(entry['at'])} {_describe_alarm(settings, entry)}"
    if (analysis := status["last_look"]) is not None:
        kinds = sorted({finding["kind"] for finding in analysis["findings"]})
        multivariate = analysis["multivariate"]
        auc = f", AUC against training {multivariate['separation']['auc']:.2f}" if multivariate else ""
        yield f"  analyzed {analysis['rows']:,} rows{auc}: {', '.join(kinds) or 'no findings'}"
        yield from _describe_disparities(analysis["disparities"])
    if (estimate := status["estimate"]) is not None:
        yield f"  estimated without labels: {_describe_estimate(estimate)}"
    yield from _describe_retraining(ScheduleStatus.model_validate(status["retraining"]))
    if status["last_error"]:
        yield f"  last failure: {status['last_error']}"
    if requests := status["used"]["requests"]:
        tags = ", ".join(f"{name} {value}" for name, value in status["tags"].items())
        yield f"  cost: {status['cost']:.4g} for {requests:,} requests" + (f" ({tags})" if tags else "")


def _describe_disparities(disparities: list[dict[str, Any]]) -> Iterator[str]:
    if not disparities:
        return
    # It imports scipy.optimize, which only a project with such limits should pay for.
    from monitoring.analysis.group_disparity import GroupDisparity

    for disparity in map(GroupDisparity.model_validate, disparities):
        figures = f"at least {disparity.low:.3g} with confidence, {disparity.limit:.3g} allowed"
        yield f"  {disparity.name}: groups differ by {disparity.difference:.3g} ({figures})"


def _describe_retraining(status: ScheduleStatus) -> Iterator[str]:
    """Only what someone should know: all of it is in ``rayloop schedule``."""
    if status.paused is not None:
        yield f"  retraining: paused by {status.paused.by}: {status.paused.reason}"
    coming = [trigger.next or f"{trigger.trigger} ({trigger.progress})" for trigger in status.triggers]
    if coming and status.paused is None:
        yield f"  retraining: next {', '.join(coming)}"
    if status.last is not None:
        yield f"  last retraining: {describe_run(status.last)}"
    if status.gains:
        yield f"  gain of retraining: {status.gains[-1]}"


def recent_alarms(alarms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Select the newest alarms, preceded by the last one that submitted a job: one fault may raise many alarms."""
    with_jobs = [entry for entry in alarms[:-_RECENT_ALARMS] if entry["action"] in JOB_ACTIONS]
    return with_jobs[-1:] + alarms[-_RECENT_ALARMS:]


def _describe_alarm(settings: Settings, entry: dict[str, Any]) -> str:
    alarm = entry["alarm"]
    outcome = describe_job(settings, entry["action"], entry["outcome"], entry["failed"])
    spent = f" (level {alarm['level']:.2g})" if alarm["level"] is not None else ""
    return f"{alarm['kind']}{spent}: {entry['action']} {outcome}: {alarm['reason']}"


def _describe_estimate(estimate: dict[str, Any]) -> str:
    if estimate["code"]:
        return f"refused ({estimate['code']}): {estimate['reason']}"
    parts = [
        f"{name} {i['value']:.3g} ({i['low']:.3g} to {i['high']:.3g})" for name, i in estimate["intervals"].items()
    ]
    return f"{', '.join(parts)}, {estimate['confidence']:.0%} intervals"


def describe_rollout(status: RolloutStatus, now: float) -> Iterator[str]:
    """Describe the last rollout: its state, its step, the evidence on each challenger, and those that were dropped.

    Args:
        status: The answer of the controller's ``status``.
        now: Seconds since the epoch.
    """
    state = status.state
    if state is None:
        return
    several = len(state.initial_challengers) > 1 and state.active
    rest = f" each, {format_versions(state.challengers)}" if several else f": {state.reason}"
    yield f"  rollout {state.id}: {rollout_summary(state)}{rest}"
    if state.policy.path == "health":
        yield f"    path: {_describe_path(state, status.late_verdict)}"
    if state.status == "running":
        yield f"    {_describe_step(state, now)}"
    if state.status == "invalid":
        yield (
            f"    no version is blamed. Find the cause, then `rayloop resume {state.model}`: the evidence from before"
            " is set aside (docs/evidence.md, Invalid)"
        )
    if state.active and state.evidence_since:
        yield f"    evidence from before {format_utc(state.evidence_since)} is set aside"
    for version in state.challengers:
        if several and version in status.verdicts:
            verdict = status.verdicts[version]
            yield f"    v{version}: {verdict.kind}: {verdict.reason}"
        if version in status.evidence:
            yield f"    {_describe_evidence(state.champion, version, status.evidence[version].total)}"
    for decision in status.decisions:
        if decision.action == "drop":
            yield f"    {format_versions(decision.challengers)} was dropped: {decision.reason}"


def _describe_path(state: RolloutState, late: LateVerdict | None) -> str:
    delay_s = state.policy.label_delay_s
    delay = f", which take {delay_s / DAY_S:.3g} days" if delay_s is not None else ""
    if state.active:
        return f"health decides the steps, and labels{delay}, after the promotion; {format_due(state)}"
    if not state.on_probation:
        return "health"
    return f"health; v{state.answering_version} is {late.reason if late else f'on probation: {format_due(state)}'}"


def _describe_step(state: RolloutState, now: float) -> str:
    policy, spent = state.policy, max(0.0, state.step_age_s(now)) / 60
    step = f"step {state.step + 1} of {len(policy.steps)} for {spent:,.1f} of {policy.deadline_s / 60:,.1f} min"
    deadline = f"{policy.on_undecided} if undecided, {policy.no_data} if there is too little data"
    return f"{step}; at the deadline: {deadline}" + ("; labels decide" if policy.path == "labels" else "")


def _describe_evidence(champion: str, challenger: str, evidence: ComparisonEvidence) -> str:
    variants = ((challenger, evidence.challenger), (champion, evidence.champion))
    counts = ", ".join(
        f"v{version} {stats.requests:,} requests ({stats.failures:,} failed)" for version, stats in variants
    )
    if (copies := evidence.copies).requests:
        counts += (
            f", v{challenger} {copies.requests:,} copies ({copies.failures:,} failed, {copies.unanswered:,} unanswered)"
        )
    if not evidence.paired.n:
        return f"{counts}; no labeled rows yet"
    losses = f"mean loss {evidence.paired.challenger:.4f} against {evidence.paired.champion:.4f}"
    return f"{counts}; {evidence.paired.n:,} labeled rows, {losses}"
