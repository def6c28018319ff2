"""``rayloop doctor``: one line for each check of the machine, the stores and the cluster."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable

import psutil
import ray

from cluster import connection, local_cluster
from cluster.errors import OutOfMemory, RayloopError
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.storage.tables import Tables

_GIB = 1024**3
_MIN_DISK_GIB = 5


def run_checks(settings: Settings, print_line: Callable[[str], None]) -> bool:
    """Print a line for each check.

    Returns:
        Whether all checks pass.
    """
    checks = (_versions, _memory, _disk, _files, _mlflow, _tables, _cluster)
    passed = [_passes(check, settings, print_line) for check in checks]
    return all(passed)


def _passes(check: Callable[[Settings], str], settings: Settings, print_line: Callable[[str], None]) -> bool:
    name = check.__name__.strip("_")
    try:
        print_line(f"ok    {name}: {check(settings)}")
    except RayloopError as error:
        print_line(f"FAIL  {name}: {error} [{error.code}]")
        return False
    return True


def _versions(settings: Settings) -> str:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ray", "torch", "mlflow", "pyiceberg"))


def _memory(settings: Settings) -> str:
    available = psutil.virtual_memory().available / _GIB
    if available < local_cluster.MIN_MEMORY_GIB:
        raise OutOfMemory("memory.too_little", available_gib=available, minimum_gib=local_cluster.MIN_MEMORY_GIB)
    return f"{available:.1f} GiB free"


def _disk(settings: Settings) -> str:
    folder = next(p for p in (settings.home, *settings.home.parents) if p.exists())
    free = shutil.disk_usage(folder).free / _GIB
    if free < _MIN_DISK_GIB:
        raise RayloopError("rayloop.disk_space_low", free_gib=free, folder=str(folder), minimum_gib=_MIN_DISK_GIB)
    return f"{free:.0f} GiB free at {folder}"


def _files(settings: Settings) -> str:
    closed = local_cluster.close_files(settings)
    return f"{closed} files were open to other users, and are closed now" if closed else "closed to other users"


def _mlflow(settings: Settings) -> str:
    Registry(settings).check()
    return settings.mlflow_uri


def _tables(settings: Settings) -> str:
    Tables(settings).check()
    return str(settings.iceberg["uri"])


def _cluster(settings: Settings) -> str:
    if not local_cluster.is_running(settings):
        return "not running; `rayloop up` starts it"
    connection.connect(settings)
    return f"{len(ray.nodes())} nodes at {settings.dashboard}"
