"""The only door to Ray's Job API: submit work, follow its log, learn how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shlex import join

from ray.job_submission import JobStatus, JobSubmissionClient

from cluster.connection import use_token
from cluster.errors import ClusterUnavailable
from cluster.log_suppression import suppress_logs
from cluster.settings import Settings

# Ray's loggers that tell each step of a submission; a failure is raised.
_TALKATIVE = ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk")

# What a project folder may hold besides code; none of it is needed on the cluster.
_EXCLUDES = [".git", ".venv", "**/__pycache__", ".rayloop", "*.egg-info", ".*_cache", ".hypothesis"]


def client(settings: Settings) -> JobSubmissionClient:
    """Raises ClusterUnavailable when no cluster answers at the settings' dashboard."""
    use_token()
    try:
        return JobSubmissionClient(settings.dashboard)
    except (ConnectionError, RuntimeError) as error:
        raise ClusterUnavailable(
            f"no Ray cluster answers at {settings.dashboard}", "start one with `rayloop up`, or set RAYLOOP_ADDRESS"
        ) from error


def submit(
    settings: Settings,
    words: Sequence[str],
    folder: Path | str,
    name: str = "",
    variables: Mapping[str, str] | None = None,
) -> str:
    """Submit a command to run beside the cluster.

    ``folder`` (or its package URI) becomes its working directory, ``variables`` are added to its environment. A job that was submitted under the same ``name`` before is not submitted again. Returns the job's id.
    """
    jobs = client(settings)
    if name and any(job.submission_id == name for job in jobs.list_jobs()):
        return name
    runtime: dict[str, object] = {
        "env_vars": settings.environment() | {"PYTHONUNBUFFERED": "1"} | dict(variables or {}),
        "working_dir": str(folder),
        "excludes": _EXCLUDES,
    }
    with suppress_logs(*_TALKATIVE):
        return str(jobs.submit_job(entrypoint=join(words), runtime_env=runtime, submission_id=name or None))


def follow(settings: Settings, job: str, write: Callable[[str], None]) -> bool:
    """Pass the job's output on as it comes, until the job ends; True when it succeeded."""
    jobs = client(settings)

    async def tail() -> None:
        async for lines in jobs.tail_job_logs(job):
            write(lines)

    with suppress_logs(*_TALKATIVE):
        asyncio.run(tail())
    return bool(jobs.get_job_status(job) == JobStatus.SUCCEEDED)


def outcome(settings: Settings, job: str) -> tuple[str, str]:
    """The job's status in Ray's words, and Ray's message about it."""
    details = client(settings).get_job_info(job)
    return str(details.status.value), str(details.message or "")


def job_state(settings: Settings, job: str) -> str:
    """How the job stands, in a word for people; empty when the cluster knows none of this id, as after it began anew."""
    try:
        return outcome(settings, job)[0].lower()
    except RuntimeError:
        return ""


def exit_code(settings: Settings, job: str) -> int:
    """The exit code of the job's command; 1 when it was ended before it had one."""
    code = client(settings).get_job_info(job).driver_exit_code
    return 1 if code is None else int(code)


def cancel(settings: Settings, job: str) -> None:
    """Stop a job that is still running."""
    client(settings).stop_job(job)
