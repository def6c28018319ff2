"""``rayloop forget``: erase an entity, from this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import ray

from cluster import connection, local_cluster
from cluster.errors import ProjectError
from cluster.settings import Settings
from rayloop.console import ProgressConsole
from rayloop.context import ProjectContext
from rayloop.project import load_project, locate_project
from rayloop.stages.deploy import STORE_VARIABLES, require_same_settings
from rayloop.stages.erase_entity import erase_entity


def erase(settings: Settings, project: str, entity: Sequence[str], print_line: Callable[[str], None]) -> None:
    """Erase an entity's rows and print what was deleted where.

    Args:
        settings: Where the stores are.
        project: Path or module name of the project.
        entity: Words ``column=value``; together they name the entity.
        print_line: Called with each line.

    Raises:
        ProjectError: A word is not of this form, or names a column that cannot identify an entity.
    """
    pairs = [pair.partition("=") for pair in entity]
    if not all(name and equals and value for name, equals, value in pairs):
        raise ProjectError("project.invalid_entity", entity=list(entity))
    location = locate_project(project)
    if local_cluster.is_running(settings):
        connection.connect(settings)
    context = ProjectContext(load_project(location), location, settings, ProgressConsole())
    if ray.is_initialized():
        require_same_settings(context, STORE_VARIABLES)
    report = erase_entity(context, {name: value for name, _, value in pairs}, datetime.now(UTC))
    for deletion in report.deleted:
        print_line(str(deletion))
    for place in report.remains:
        print_line(f"remains: {place}")
