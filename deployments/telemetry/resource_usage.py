"""Resource usage of a replica, for the model's cost: reserved CPUs and GPUs, CPU time, memory."""

from __future__ import annotations

import time
from collections.abc import Mapping

import psutil

from cluster.values import Usage

_GIB = 1024**3


class UsageMeter:
    """Measures this process.

    Args:
        replica: Name of the replica.
        reserved: Resources that Ray has assigned to it, by name: "CPU", "GPU".
    """

    def __init__(self, replica: str, reserved: Mapping[str, float]) -> None:
        self._replica = replica
        self._reserved = dict(reserved)
        self._process = psutil.Process()
        self._at, self._cpu_s = time.monotonic(), self._cpu_time()

    def read(self, requests: int) -> Usage:
        """Return the usage since the last call, or since creation; memory is the current one times the interval.

        Args:
            requests: Requests answered in the interval.
        """
        now, cpu_s = time.monotonic(), self._cpu_time()
        elapsed_s, used_cpu_s = now - self._at, cpu_s - self._cpu_s
        self._at, self._cpu_s = now, cpu_s
        return Usage(
            replica=self._replica,
            cpu_s=used_cpu_s,
            reserved_cpu_s=elapsed_s * self._reserved.get("CPU", 0.0),
            reserved_gpu_s=elapsed_s * self._reserved.get("GPU", 0.0),
            gib_s=elapsed_s * self._process.memory_info().rss / _GIB,
            requests=requests,
        )

    def _cpu_time(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)
