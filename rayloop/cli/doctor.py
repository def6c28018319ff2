"""``rayloop doctor``: one line for each check of the machine, the stores, the cluster and its nodes.

All checks run at once, and none may take longer than a limit: a store that hangs is named, and delays no other check.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from urllib.parse import urlsplit

import ray

from cluster import connection, local_cluster
from cluster.door.probe import check_door
from cluster.errors import RayloopError
from cluster.limits import start_thread
from cluster.log_suppression import suppress_logs
from cluster.node.private_files import close_files
from cluster.node.session import is_running
from cluster.registry import Registry
from cluster.settings import Settings, hide_password
from cluster.storage.tables import Tables
from deployments.auth.key_store import KeyStore
from features.online.store import open_shared_store
from rayloop.cli.node_probe import NodeProbe, probe_nodes

_GIB = 1024**3
_MIN_DISK_GIB = 5
_LIMIT_S = 30.0
"""Seconds after which a check counts as hanging."""


def run_checks(
    settings: Settings,
    print_line: Callable[[str], None],
    checks: Sequence[Callable[[Settings], str]] = (),
    limit_s: float = _LIMIT_S,
) -> bool:
    """Print a line for each check, and for each node.

    Args:
        settings: Home, stores and ports.
        print_line: Called with each line.
        checks: Functions that return what is well, or raise a RayloopError; default: all checks of this module.
        limit_s: Seconds after which a check counts as hanging.

    Returns:
        Whether all checks pass.
    """
    checks = checks or (_versions, _memory, _disk, _files, _mlflow, _tables, _online, _keys, _door, _cluster)
    outcomes = {check: start_thread(check.__name__, check, settings) for check in checks}
    deadline = time.monotonic() + limit_s
    passed = [_passes(check.__name__.strip("_"), outcome, deadline, print_line) for check, outcome in outcomes.items()]
    if ray.is_initialized():
        passed += [_node_passes(probe, print_line) for probe in probe_nodes()]
    return all(passed)


def _passes(name: str, outcome: Future[str], deadline: float, print_line: Callable[[str], None]) -> bool:
    try:
        print_line(f"ok    {name}: {outcome.result(max(0.0, deadline - time.monotonic()))}")
    except RayloopError as error:
        print_line(f"FAIL  {name}: {error} [{error.code}]")
        return False
    except TimeoutError:
        late = RayloopError("rayloop.check_hangs", check=name)
        print_line(f"FAIL  {name}: {late} [{late.code}]")
        return False
    return True


def _node_passes(probe: NodeProbe, print_line: Callable[[str], None]) -> bool:
    print_line(f"{'FAIL' if probe.problems else 'ok  '}  node {probe.address}: {probe.summary}")
    return not probe.problems


def _versions(settings: Settings) -> str:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ray", "torch", "mlflow", "pyiceberg"))


def _memory(settings: Settings) -> str:
    return f"{local_cluster.check_memory():.1f} GiB free"


def _disk(settings: Settings) -> str:
    folder = next(p for p in (settings.home, *settings.home.parents) if p.exists())
    free = shutil.disk_usage(folder).free / _GIB
    if free < _MIN_DISK_GIB:
        raise RayloopError("rayloop.disk_space_low", free_gib=free, folder=str(folder), minimum_gib=_MIN_DISK_GIB)
    return f"{free:.0f} GiB free at {folder}"


def _files(settings: Settings) -> str:
    closed = close_files(settings)
    return f"{closed} files were open to other users, and are closed now" if closed else "closed to other users"


def _mlflow(settings: Settings) -> str:
    Registry(settings).check()
    return hide_password(settings.mlflow_uri)


def _tables(settings: Settings) -> str:
    Tables(settings).check()
    return hide_password(settings.iceberg["uri"])


def _online(settings: Settings) -> str:
    open_shared_store(settings.online_store_uri).get_many([b"doctor"])
    return urlsplit(settings.online_store_uri).scheme


def _keys(settings: Settings) -> str:
    if not settings.access:
        return "access control is off"
    return f"{len(KeyStore(settings.access_uri).read())} API keys"


def _door(settings: Settings) -> str:
    return check_door(settings) if settings.door else "RAYLOOP_DOOR is off"


def _cluster(settings: Settings) -> str:
    if not connection.in_job() and not is_running(settings):
        return "not running; `rayloop up` starts it"
    # Ray warns that it cannot handle signals in a thread that is not the main one.
    with suppress_logs("ray._private.worker"):
        connection.connect(settings)
    return f"{sum(node['Alive'] for node in ray.nodes())} nodes at {settings.dashboard}"
