"""The Ray jobs that an alarm starts, a retraining or a rollback, and those of triggers of retraining."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import ray

from cluster import jobs
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.values import Alarm
from monitoring.detection.alarm_actions import AlarmAction
from monitoring.retraining.decision import RetrainEntry
from monitoring.retraining.retrain_scheduler import Submit
from rayloop.code_version import COMMIT, current_commit
from rayloop.project import Location

JOB_ACTIONS = ("retrain", "rollback")
"""Alarm actions whose outcome in the monitor's journal is the id of a job."""


def retrain_job(settings: Settings, location: Location, window_s: float, folder: str) -> AlarmAction:
    """Return the alarm action that submits a Ray job to retrain on what was known when the alarm's window ended.

    Args:
        settings: Which cluster.
        location: Where the project is.
        window_s: Width of the monitor's windows, seconds.
        folder: URI of the package with the project; see ``shipped_package``.
    """
    submit = _job_submitter("retrain", settings, location, folder)

    def act(alarm: Alarm) -> str:
        until = datetime.fromtimestamp(alarm.window, UTC) + timedelta(seconds=window_s)
        return submit(alarm, f"{until:%Y%m%dT%H%M}", "--until", until.isoformat())

    return act


def triggered_job(settings: Settings, location: Location, folder: str, model: str) -> Submit:
    """Return the function that submits the job of a retraining which a trigger starts, on what is known then.

    Args:
        settings: Which cluster.
        location: Where the project is.
        folder: URI of the package with the project; see ``shipped_package``.
        model: Name of the model.
    """
    variables = {COMMIT: current_commit(location.folder)}

    def submit(entry: RetrainEntry) -> str:
        until = datetime.fromtimestamp(entry.at, UTC)
        # The name as above: a repetition after a crash is not submitted twice.
        name = f"retrain-{model}-triggered-{until:%Y%m%dT%H%M%S%f}"
        options = ("--until", until.isoformat(), "--reason", entry.reason)
        words = jobs.rayloop_command(settings, "retrain", location.module, *options)
        return jobs.submit(settings, words, folder, name, variables)

    return submit


def rollback_job(settings: Settings, location: Location, folder: str) -> AlarmAction:
    """Return the alarm action that submits a Ray job to roll back: a rollback takes longer than an actor call may."""
    submit = _job_submitter("rollback", settings, location, folder)
    return lambda alarm: submit(alarm, f"{alarm.window:.0f}", "--version", alarm.version)


def _job_submitter(command: str, settings: Settings, location: Location, folder: str) -> Callable[..., str]:
    """Return a function that submits a command as a job, given the alarm, the end of its name, and its options."""
    variables = {COMMIT: current_commit(location.folder)}

    def submit(alarm: Alarm, ending: str, *options: str) -> str:
        # After a crash the monitor may repeat an action; a job of the same name is not submitted twice. The run id
        # distinguishes two versions with one number, of which the first was deleted.
        run = Registry(settings).version(alarm.model, alarm.version).run_id
        name = f"{command}-{alarm.model}-v{alarm.version}-{run[:8]}-{ending}"
        words = jobs.rayloop_command(settings, command, location.module, *options, "--reason", alarm.reason)
        return jobs.submit(settings, words, folder, name, variables)

    return submit


def shipped_package() -> str:
    """Return the URI of the package with this job's project, for processes that outlive the job."""
    return str(ray.get_runtime_context().runtime_env.get("working_dir", ""))


def describe_job(settings: Settings, action: str, outcome: str, failed: bool) -> str:
    """Describe an alarm action's outcome; of a job with its state."""
    job = jobs.job_state(settings, outcome) if action in JOB_ACTIONS and not failed else ""
    return f"{outcome} ({job})" if job else outcome
