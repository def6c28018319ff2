"""Ray's Job API: submit a command, follow its log, query how it ended. No other module calls that API."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shlex import join
from typing import TypeVar

from ray.job_submission import JobStatus, JobSubmissionClient

from cluster.connection import use_token
from cluster.errors import ClusterUnavailable
from cluster.log_suppression import suppress_logs
from cluster.settings import Settings

Client = TypeVar("Client")
# Ray logs each step of a submission; a failure is raised anyway.
_NOISY_LOGGERS = ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk")

_NOT_FOUND = "status code 404"
"""What Ray's client says of a job that the cluster does not know; it has one kind of error for all."""

# What a project folder may contain in addition to code; the cluster needs none of it.
_EXCLUDES = [".git", ".venv", "**/__pycache__", ".rayloop", "*.egg-info", ".*_cache", ".hypothesis"]


def client(settings: Settings) -> JobSubmissionClient:
    """Connect to the Job API. Raises ClusterUnavailable when no cluster answers."""
    return connect_dashboard(JobSubmissionClient, settings)


def connect_dashboard(api: Callable[[str], Client], settings: Settings) -> Client:
    """Connect to an API of Ray's dashboard, with the cluster's token.

    Args:
        api: Ray's client of the API; takes the dashboard's address, and asks it for its version.
        settings: Which cluster.

    Raises:
        ClusterUnavailable: No dashboard answers.
    """
    use_token()
    try:
        return api(settings.dashboard)
    except (OSError, RuntimeError) as error:
        raise ClusterUnavailable("cluster.no_answer", address=settings.dashboard) from error


def submit(
    settings: Settings,
    arguments: Sequence[str],
    folder: Path | str | None,
    name: str = "",
    variables: Mapping[str, str] | None = None,
) -> str:
    """Submit a command as a Ray job.

    Args:
        settings: Which cluster; the job gets them in its environment.
        arguments: The command and its arguments.
        folder: The job's working directory: a local folder, which is uploaded, or a package URI; None: none.
        name: Id of the job. When a job of this id exists, nothing is submitted. Default: a new id.
        variables: Further environment variables.

    Returns:
        The job's id.
    """
    jobs = client(settings)
    if name and any(job.submission_id == name for job in jobs.list_jobs()):
        return name
    runtime: dict[str, object] = {
        "env_vars": settings.environment() | {"PYTHONUNBUFFERED": "1"} | dict(variables or {}),
    }
    if folder is not None:
        runtime |= {"working_dir": str(folder), "excludes": _EXCLUDES}
    with suppress_logs(*_NOISY_LOGGERS):
        return str(jobs.submit_job(entrypoint=join(arguments), runtime_env=runtime, submission_id=name or None))


def rayloop_command(settings: Settings, *words: str) -> list[str]:
    """Return a command of rayloop as a job runs it: with this interpreter on this machine, else with the head's."""
    return ["python" if settings.address else sys.executable, "-m", "rayloop", *words]


def follow(settings: Settings, job: str, write: Callable[[str], None]) -> bool:
    """Call ``write`` with the job's output until the job ends. Returns whether it succeeded."""
    jobs = client(settings)

    async def tail() -> None:
        async for lines in jobs.tail_job_logs(job):
            write(lines)

    with suppress_logs(*_NOISY_LOGGERS):
        asyncio.run(tail())
    return bool(jobs.get_job_status(job) == JobStatus.SUCCEEDED)


def outcome(settings: Settings, job: str) -> tuple[str, str]:
    """Return the job's status, such as "SUCCEEDED", and Ray's message about it."""
    details = client(settings).get_job_info(job)
    return str(details.status.value), str(details.message or "")


def job_state(settings: Settings, job: str) -> str:
    """Return the job's status in lowercase; empty when the cluster does not know the job, as after a restart."""
    try:
        return outcome(settings, job)[0].lower()
    except RuntimeError:
        return ""


def run_time(settings: Settings, job: str) -> tuple[str, str, float]:
    """Return how a job goes: "running" until it ends, Ray's message, and the minutes that it ran.

    A job that the cluster does not know, as after the loss of its head, is "unknown".

    Raises:
        RuntimeError: The dashboard does not answer as it should.
    """
    try:
        details = client(settings).get_job_info(job)
    except RuntimeError as error:
        if _NOT_FOUND not in str(error):
            raise
        return "unknown", "", 0.0
    state = str(details.status.value).lower() if details.status.is_terminal() else "running"
    ended_at = details.end_time or 1_000 * time.time()
    return state, str(details.message or ""), max(0.0, ended_at - (details.start_time or ended_at)) / 60_000


def exit_code(settings: Settings, job: str) -> int:
    """Return the exit code of the job's command; 1 when the job was stopped before it had one."""
    code = client(settings).get_job_info(job).driver_exit_code
    return 1 if code is None else int(code)


def cancel(settings: Settings, job: str) -> None:
    """Stop a job that is still running."""
    client(settings).stop_job(job)
