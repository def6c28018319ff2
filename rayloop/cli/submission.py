"""Where a command runs: in this process when it is a Ray job already, otherwise as a Ray job that it submits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import typer

from cluster import connection
from cluster.errors import SettingsError
from cluster.settings import Settings, load_settings

if TYPE_CHECKING:
    from rayloop.project import Location

Option = bool | str | datetime | Sequence[str] | None


def run_or_submit(
    command: str,
    project: str,
    *arguments: str,
    check: Callable[[Any], object] = lambda declared: None,
    **options: Option,
) -> None:
    """Run a command on the project when this process is a Ray job; otherwise submit the same command as one.

    Args:
        command: Name of the command; its function in rayloop.cli.project_commands has "_" for "-".
        project: Path or module name of the project.
        *arguments: Arguments after the project.
        check: Called with the project before a job is submitted; raises for options that do not fit the project.
        **options: Options by name, as ``option_words`` takes them.
    """
    from rayloop.project import load_project, locate_project

    location = locate_project(project)
    loaded = load_project(location)
    check(loaded)
    settings = load_settings()
    if connection.in_job():
        from cluster.log_suppression import suppress_ray_data_logs
        from rayloop.cli import project_commands
        from rayloop.console import ProgressConsole
        from rayloop.context import ProjectContext

        connection.connect(settings)
        suppress_ray_data_logs()
        context = ProjectContext(loaded, location, settings, ProgressConsole())
        getattr(project_commands, command.replace("-", "_"))(context, *arguments, **options)
        return
    _submit(settings, [command, location.module, *arguments, *option_words(options)], location.folder)


def submit_outside(settings: Settings, command: str, *arguments: str, **options: Option) -> bool:
    """Submit a command without a project as a Ray job when the cluster is one of other machines.

    Args:
        settings: Which cluster.
        command: Name of the command, after that of its group and a space.
        *arguments: Its arguments.
        **options: Its options by name.

    Returns:
        Whether it was submitted, and has ended; otherwise the command runs in this process.
    """
    if not settings.address or connection.in_job():
        return False
    texts = {name: value for name, value in options.items() if value != ""}
    _submit(settings, [*command.split(), *option_words(texts), "--", *arguments], None)
    return True


def submit_with_file(settings: Settings, location: Location, command: str, argument: str, file: Path) -> bool:
    """Submit a command on the project and a local file as a Ray job, as ``submit_outside`` does.

    Args:
        settings: Which cluster.
        location: The project.
        command: Name of the command.
        argument: Its argument between project and file.
        file: The file, which is uploaded beside the project.

    Returns:
        Whether it was submitted, and has ended.
    """
    if not settings.address or connection.in_job():
        return False
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for path in location.folder.absolute().iterdir():
            (folder / path.name).symlink_to(path)
        uploaded = folder / f"uploaded{file.suffix}"
        uploaded.unlink(missing_ok=True)
        uploaded.symlink_to(file.absolute())
        _submit(settings, [command, location.module, argument, uploaded.name], folder)
    return True


def require_stores(settings: Settings, *fields: str) -> None:
    """Check that a command which runs in this process works on the cluster's stores, not on those of this machine.

    Args:
        settings: Which cluster.
        fields: Fields of the settings that name the stores of the command.

    Raises:
        SettingsError: Another machine's cluster is named, and some of its stores are not.
    """
    if not settings.address or connection.in_job():
        return
    if missing := [f"RAYLOOP_{field.upper()}" for field in fields if not getattr(settings, field)]:
        raise SettingsError("settings.stores_not_set", variables=missing)


def option_words(options: Mapping[str, Option]) -> list[str]:
    """Write options as words of a command line.

    Args:
        options: Values by the option's name: a flag, a text, a time, or the texts of a repeated option. None and False
            are left out.
    """
    words = []
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words += [f"--{option}"] * value
        elif value is not None:
            texts = [value.isoformat()] if isinstance(value, datetime) else [value] if isinstance(value, str) else value
            words += [word for text in texts for word in (f"--{option}", text)]
    return words


def _submit(settings: Settings, arguments: list[str], folder: Path | None) -> None:
    from cluster import jobs
    from rayloop.code_version import COMMIT, current_commit
    from rayloop.compatibility import require_compatible_cluster

    require_compatible_cluster(settings)
    variables = {COMMIT: current_commit(folder)} if folder else {}
    job = jobs.submit(settings, jobs.rayloop_command(settings, *arguments), folder, variables=variables)
    typer.echo(f"Ray job {job} (dashboard: {settings.dashboard}/#/jobs/{job})")
    try:
        succeeded = jobs.follow(settings, job, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        jobs.cancel(settings, job)
        raise
    if not succeeded:
        sys.exit(jobs.exit_code(settings, job))
