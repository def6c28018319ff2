"""``rayloop restore``: fill empty stores from a backup, and serve the models again."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cluster import connection, jobs, local_cluster
from cluster.errors import BackupError
from cluster.names import CHAMPION
from cluster.node.session import is_running
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.times import format_utc
from cluster.values import ModelVersion
from features.online import state_dump
from rayloop.backup.backup_folder import BackupFolder, BackupManifest, list_files, open_folder
from rayloop.backup.stores import databases, trees
from rayloop.console import ProgressConsole
from rayloop.stages.project_code import fetch_code

_SERVE_COMMAND = "serve-again"


def restore_backup(settings: Settings, source: str, progress: ProgressConsole) -> None:
    """Restore a backup.

    Args:
        settings: The stores, at the addresses that they had, and empty.
        source: Folder of the backup, or its URI.
        progress: Gets a line for each store and for each model.

    Raises:
        BackupError: There is no such backup, it is damaged, its stores were at other addresses, a store is not
            empty, or a model cannot be served.
    """
    backup = BackupFolder(source)
    manifest = backup.manifest()
    with progress.stage("restore"):
        _check(settings, manifest)
        progress(f"backup of {format_utc(manifest.created_at)}, rayloop {manifest.release}")
        _restore_stores(settings, backup, manifest, progress)
    with progress.stage("serve"):
        if not settings.address and not connection.in_job():
            local_cluster.start(settings, progress)
        _serve_models(settings, progress)


def _check(settings: Settings, manifest: BackupManifest) -> None:
    """Refuse what would mix states, before anything is written."""
    for name, address in trees(settings).items():
        if address != (there := manifest.locations.get(name, address)):
            raise BackupError("backup.other_address", store=name, address=there, here=address)
    if not settings.address and not connection.in_job() and is_running(settings):
        raise BackupError("backup.cluster_running")
    in_use = [name for name, database in databases(settings).items() if database.exists()]
    in_use += [name for name, uri in trees(settings).items() if list_files(*open_folder(uri))]
    in_use += [] if state_dump.is_empty(settings.online_store_uri) else ["online"]
    if in_use:
        raise BackupError("backup.stores_not_empty", stores=in_use)


def _restore_stores(
    settings: Settings, backup: BackupFolder, manifest: BackupManifest, progress: ProgressConsole
) -> None:
    # Files before the databases that name them.
    for name, uri in trees(settings).items():
        backup.extract_tree(manifest, name, uri)
        progress(f"{name} restored")
    with tempfile.TemporaryDirectory() as folder:
        views = [name for name in manifest.files if name.startswith("online/")]
        for name in views:
            backup.extract(manifest, name, Path(folder, name))
        keys = state_dump.load(settings.online_store_uri, [Path(folder, name) for name in views])
        progress(f"online: {keys:,} keys of {len(views)} views restored")
        for name, database in databases(settings).items():
            if name in manifest.files:
                dump = Path(folder, name)
                backup.extract(manifest, name, dump)
                database.restore(dump)
                progress(f"{name} restored")


def _serve_models(settings: Settings, progress: ProgressConsole) -> None:
    registry = Registry(settings)
    for model in registry.model_names():
        champion = registry.version_by_alias(model, CHAMPION)
        if champion is not None:
            progress(f"{champion}: {_serve(settings, registry, champion)}")


def _serve(settings: Settings, registry: Registry, champion: ModelVersion) -> str:
    """Serve a model in a job with the code of its version. Returns the outcome."""
    with tempfile.TemporaryDirectory() as folder:
        module = fetch_code(registry, champion, Path(folder))
        if not module:
            return "an earlier release deployed it, without its code; serve it with `rayloop deploy`"
        job = jobs.submit(settings, jobs.rayloop_command(settings, _SERVE_COMMAND, module), folder)
        lines: list[str] = []
        if not jobs.follow(settings, job, lines.append):
            raise BackupError("backup.model_not_served", model=champion.model, job=job, log="".join(lines).strip())
    return f"served by job {job}"
