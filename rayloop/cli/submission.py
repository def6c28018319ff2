"""Where a command runs: in this process when it is a Ray job already, otherwise as a Ray job that it submits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from cluster import connection
from cluster.settings import Settings, load_settings


def run_or_submit(
    command: str,
    project: str,
    *options: str,
    action: Callable[[Any], None] | None = None,
    check: Callable[[Any], object] = lambda declared: None,
) -> None:
    """Run ``action`` on the project when this process is a Ray job; otherwise submit the same command as one.

    Args:
        command: Name of the command.
        project: Path or module name of the project.
        options: Further words of the command.
        action: What the command does, given the project's context.
        check: Called with the project before a job is submitted; raises for options that do not fit the project.
    """
    from rayloop.project import load_project, locate_project

    location = locate_project(project)
    loaded = load_project(location)
    check(loaded)
    settings = load_settings()
    if connection.in_job() and action is not None:
        from cluster.log_suppression import suppress_ray_data_logs
        from rayloop.console import ProgressConsole
        from rayloop.context import ProjectContext

        connection.connect(settings)
        suppress_ray_data_logs()
        action(ProjectContext(loaded, location, settings, ProgressConsole()))
        return
    _submit(settings, [command, location.module, *options], location.folder)


def _submit(settings: Settings, arguments: list[str], folder: Path) -> None:
    from cluster import jobs
    from rayloop.code_version import COMMIT, current_commit
    from rayloop.compatibility import require_compatible_cluster

    require_compatible_cluster(settings)
    python = sys.executable if not settings.address else "python"
    job = jobs.submit(
        settings, [python, "-m", "rayloop", *arguments], folder, variables={COMMIT: current_commit(folder)}
    )
    typer.echo(f"Ray job {job} (dashboard: {settings.dashboard}/#/jobs/{job})")
    try:
        succeeded = jobs.follow(settings, job, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        jobs.cancel(settings, job)
        raise
    if not succeeded:
        sys.exit(jobs.exit_code(settings, job))
