"""Memory of a running Ray cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import psutil

from cluster.node.session import processes
from cluster.settings import Settings

_SAMPLE_S = 0.1
_MIB = 1 << 20

T = TypeVar("T")


def peak_mib(settings: Settings, work: Callable[[], T]) -> tuple[T, float]:
    """Return the result of ``work``, and the peak of resident memory of the workers plus the object store."""
    peak, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(_SAMPLE_S):
            peak = max(peak, worker_bytes(settings) + store_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = work()
    finally:
        done.set()
        watcher.join()
    return result, peak / _MIB


def worker_bytes(settings: Settings) -> int:
    """Return the private memory of the workers; pages shared with the object store are counted there."""
    total = 0
    for process in processes(settings):
        try:
            if process.name().startswith("ray::"):
                memory = process.memory_info()
                total += memory.rss - memory.shared
        except psutil.NoSuchProcess:
            continue
    return total


def store_bytes() -> int:
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    reply = get_memory_info_reply(get_state_from_address(ray.get_runtime_context().gcs_address))
    return int(reply.store_stats.object_store_bytes_used)
