"""``rayloop schedule``: what retrains each model, when next, what was missed, and what the budget leaves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

from ray.exceptions import RayError

from cluster import connection
from cluster.actors import find_actor, get_result
from cluster.errors import RayloopError
from cluster.names import monitor_actor
from cluster.settings import Settings
from cluster.times import format_utc
from monitoring.retraining.decision import RetrainEntry
from monitoring.retraining.retrain_scheduler import ScheduleStatus, TriggerStatus
from rayloop.served_models import list_models

SHOWN_GAINS = 3
"""Retrained versions whose gain is shown, the newest."""
_LIMIT_S = 10.0
"""Seconds in which a monitor must answer."""


def show_schedules(settings: Settings, model: str, as_json: bool, print_line: Callable[[str], None]) -> None:
    """Print the retraining of one model, or of all.

    Args:
        settings: Which cluster.
        model: Name of the model; empty for all.
        as_json: Print a JSON list, with the journals, in place of lines.
        print_line: Prints a line.

    Raises:
        RayloopError: The model has no monitor.
    """
    connection.connect(settings)
    monitors = {name: find_actor(monitor_actor(name)) for name in ([model] if model else list_models())}
    if model and monitors[model] is None:
        raise RayloopError("rayloop.no_monitor", model=model)
    # All are asked before the first answer is waited for: of two hundred models, some may be slow.
    asked = {name: monitor.schedule_status.remote() for name, monitor in monitors.items() if monitor is not None}
    documents: list[dict[str, Any]] = []
    for name, answer in asked.items():
        try:
            status = get_result(answer, _LIMIT_S)
        except (RayloopError, RayError) as error:
            documents.append({"model": name, "error": str(error)})
            lines = [f"{name}: cannot read its schedule: {error}"]
        else:
            documents.append(status.model_dump(mode="json"))
            lines = list(describe_schedule(status))
        for line in [] if as_json else lines:
            print_line(line)
    if as_json:
        print_line(json.dumps(documents, indent=1))
    elif not asked:
        print_line("no model is served; `rayloop run <project>` serves one")


def change_schedule(
    settings: Settings, model: str, change: Literal["pause", "resume"], by: str, reason: str,
    print_line: Callable[[str], None],
) -> None:  # fmt: skip
    """Pause or resume the retraining of one model.

    Args:
        settings: Which cluster.
        model: Name of the model.
        change: What to do.
        by: Who does it.
        reason: Why.
        print_line: Prints a line.

    Raises:
        RayloopError: The model has no monitor.
    """
    connection.connect(settings)
    monitor = find_actor(monitor_actor(model))
    if monitor is None:
        raise RayloopError("rayloop.no_monitor", model=model)
    method = monitor.pause_retraining if change == "pause" else monitor.resume_retraining
    for line in describe_schedule(get_result(method.remote(by, reason), _LIMIT_S)):
        print_line(line)


def describe_schedule(status: ScheduleStatus) -> Iterator[str]:
    """Describe the retraining of one model: whether it is paused, its triggers, its budget, its last run."""
    paused = status.paused
    state = f"paused by {paused.by} at {format_utc(paused.at)} UTC: {paused.reason}" if paused else _budget(status)
    yield f"{status.model}: {state}"
    if not status.triggers:
        yield "  no trigger is declared; alarms and `rayloop retrain` retrain it"
    for trigger in status.triggers:
        yield from _describe_trigger(trigger)
    if status.last is not None:
        yield f"  last run: {describe_run(status.last)}"
    for gain in status.gains[-SHOWN_GAINS:]:
        yield f"  gain of {gain}"


def describe_run(entry: RetrainEntry) -> str:
    """Describe a run: when, its job, how it ended, and why it started."""
    took = f" after {entry.minutes:.3g} min" if entry.minutes else ""
    job = f" {entry.job}" if entry.job else ""
    return f"{format_utc(entry.at)} UTC,{job} {entry.outcome or 'running'}{took}, because: {entry.reason}"


def _describe_trigger(trigger: TriggerStatus) -> Iterator[str]:
    yield f"  {trigger.trigger}: " + (f"next {trigger.next}" if trigger.next else trigger.progress)
    if trigger.last is not None:
        yield f"    last run {format_utc(trigger.last.at)} UTC, {trigger.last.outcome or 'running'}"
    if (missed := trigger.missed) is not None:
        yield f"    {missed.event} {format_utc(missed.at)} UTC: {missed.reason}"


def _budget(status: ScheduleStatus) -> str:
    runs, minutes = status.runs_left, status.minutes_left
    left = [] if runs is None else [f"{runs} run{'s' * (runs != 1)}"]
    left += [] if minutes is None else [f"{minutes:.3g} minutes"]
    return f"{' and '.join(left)} left of {status.period_days:g} days' budget" if left else "no budget is declared"
