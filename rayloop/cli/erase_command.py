"""``rayloop forget``: erase an entity, from this process.

With ``RAYLOOP_ADDRESS``, the process has the cluster's stores but no connection to the log writer: predictions that are
not committed yet remain, and the command says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import ray

from cluster import connection
from cluster.node.session import is_running
from cluster.settings import Settings
from rayloop.cli.submission import require_stores
from rayloop.console import ProgressConsole
from rayloop.context import ProjectContext
from rayloop.project import load_project, locate_project
from rayloop.stages.deploy import STORE_VARIABLES, require_same_settings
from rayloop.stages.erase_entity import erase_entity

_STORES = ("tracking_uri", "artifact_root", "catalog_uri", "warehouse", "online_store")


def erase(settings: Settings, project: str, entity: Mapping[str, str], print_line: Callable[[str], None]) -> None:
    """Erase an entity's rows and print what was deleted where.

    Args:
        settings: Where the stores are.
        project: Path or module name of the project.
        entity: The entity's key: value by column.
        print_line: Called with each line.

    Raises:
        ProjectError: A column cannot identify an entity.
        SettingsError: The cluster is one of other machines, and its stores are not set here.
    """
    location = locate_project(project)
    require_stores(settings, *_STORES)
    if connection.in_job() or is_running(settings):
        connection.connect(settings)
    context = ProjectContext(load_project(location), location, settings, ProgressConsole())
    if ray.is_initialized():
        require_same_settings(context, STORE_VARIABLES)
    report = erase_entity(context, entity, datetime.now(UTC))
    for deletion in report.deleted:
        print_line(str(deletion))
    for place in report.remains:
        print_line(f"remains: {place}")
