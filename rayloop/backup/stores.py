"""What rayloop stores, and where: the parts of a backup."""

from __future__ import annotations

from pathlib import Path

from cluster.settings import Settings
from rayloop.backup.databases import Database

_STATE_FOLDERS = ("monitors", "projects")
"""Folders of the state: of drift monitors, and reports."""


def databases(settings: Settings) -> dict[str, Database]:
    """Return the databases by name, in the order in which they are copied.

    The rollout journal, in the catalog, is copied after the aliases: when both changed in between, the controller moves
    the aliases to where the journal is.

    Raises:
        BackupError: A store keeps its data behind a server of its own.
    """
    uris = {
        "tracking": ("RAYLOOP_TRACKING_URI", settings.mlflow_uri),
        "catalog": ("RAYLOOP_CATALOG_URI", settings.iceberg["uri"]),
        "access": ("RAYLOOP_ACCESS_STORE", settings.access_uri),
    }
    distinct: dict[str, Database] = {}
    addresses: set[str] = set()
    for name, (variable, uri) in uris.items():
        if uri not in addresses:
            addresses.add(uri)
            distinct[name] = Database(uri, variable)
    return distinct


def trees(settings: Settings) -> dict[str, str]:
    """Return the addresses of the folders with files, by name. Tables and versions contain these addresses."""
    folders = {"warehouse": settings.iceberg["warehouse"], "artifacts": settings.mlflow_artifacts}
    # Beside the artifacts, they are copied with them.
    if not settings.state.startswith(f"{folders['artifacts']}/"):
        folders |= {name: f"{settings.state}/{name}" for name in _STATE_FOLDERS}
    # Counts of log rows.
    return folders | {"tallies": str(Path(settings.home, "tallies").absolute())}
