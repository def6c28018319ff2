"""The limit of a challenger's memory: beyond it, its replica reports to the log writer and ends itself."""

from __future__ import annotations

import logging
import os
from typing import Any

import ray
from ray.actor import ActorHandle

from cluster.actors import get_actor
from cluster.names import log_writer_actor
from cluster.values import ModelVersion
from deployments.inference.memory_guard import MemoryGuard

OUT_OF_MEMORY_EXIT_CODE = 137
"""Exit code of a replica that grew too far; the same as that of a container out of memory."""
_LAST_REPORT_TIMEOUT_S = 2.0

_log = logging.getLogger(__name__)


def guard_memory(version: ModelVersion, rollout: str, max_growth_mib: float | None) -> MemoryGuard | None:
    """Report to the log writer how far this process grows from now on, and end it beyond the limit.

    Args:
        version: The challenger that this process serves.
        rollout: Its rollout.
        max_growth_mib: The limit in MiB; None: no limit.
    """
    if max_growth_mib is None:
        return None
    # The handle's first use imports the log writer's module, which must not count as the model's growth.
    log_writer: ActorHandle[Any] = get_actor(log_writer_actor(version.model))

    def report(growth_mib: float) -> ray.ObjectRef[Any]:
        return log_writer.record_memory_growth.remote(rollout, version.version, growth_mib)

    def terminate(growth_mib: float) -> None:
        _log.error(
            "%s has grown by %.0f MiB since it was loaded, the limit is %.0f MiB: ending this replica",
            version, growth_mib, max_growth_mib,
        )  # fmt: skip
        try:
            ray.get(report(growth_mib), timeout=_LAST_REPORT_TIMEOUT_S)
        except Exception:
            # The next replica will also grow, and may get its report through.
            _log.exception("cannot reach the log writer")
        os._exit(OUT_OF_MEMORY_EXIT_CODE)

    return MemoryGuard(max_growth_mib, report, terminate)
