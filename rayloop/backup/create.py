"""``rayloop backup``: copy everything that is stored, while models are served."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cluster import connection
from cluster.errors import BackupError
from cluster.node.session import is_running
from cluster.settings import Settings
from features.online import state_dump
from rayloop import __version__
from rayloop.backup.backup_folder import BackupFolder, BackupManifest
from rayloop.backup.stores import databases, trees
from rayloop.console import ProgressConsole
from rayloop.served_models import flush_logs

_MIB = 1 << 20


def create_backup(settings: Settings, target: str, progress: ProgressConsole) -> None:
    """Write a backup.

    Args:
        settings: The stores.
        target: Empty or absent folder, or its URI.
        progress: Gets a line for each store.

    Raises:
        BackupError: The folder is not empty, a store cannot be copied.
    """
    sources = databases(settings)
    backup = BackupFolder(target)
    if not backup.is_empty():
        raise BackupError("backup.target_not_empty", folder=target)
    with progress.stage("backup"):
        if connection.in_job() or is_running(settings):
            flush_logs(settings, progress)
        with tempfile.TemporaryDirectory() as folder:
            # Databases before files, which they name; files are never changed.
            for name, database in sources.items():
                if database.exists():
                    _add(backup, progress, name, database.dump, Path(folder, f"{name}.dump"))
            for file in state_dump.dump(settings.online_store_uri, Path(folder)):
                backup.add(file, f"online/{file.name}")
        progress(f"online: {len([name for name in backup.files if name.startswith('online/')])} views")
        for name, uri in trees(settings).items():
            backup.add_tree(uri, name)
            progress(f"{name}: {_size(backup, f'{name}/')}")
        manifest = BackupManifest(
            created_at=time.time(), release=__version__, locations=trees(settings), files=backup.files
        )
        backup.finish(manifest)
        progress(f"{len(manifest.files):,} files, {manifest.size / _MIB:,.1f} MiB in {target}")


def _add(backup: BackupFolder, progress: ProgressConsole, name: str, dump: Callable[[Path], None], file: Path) -> None:
    dump(file)
    backup.add(file, name)
    progress(f"{name}: {_size(backup, name)}")


def _size(backup: BackupFolder, prefix: str) -> str:
    sizes = [file.size for name, file in backup.files.items() if name.startswith(prefix)]
    return f"{len(sizes):,} files, {sum(sizes) / _MIB:,.1f} MiB"
