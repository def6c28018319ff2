"""What a replica holds and uses: reserved CPUs and GPUs, CPU time, memory; for the model's cost. Off the request path."""

from __future__ import annotations

import time
from collections.abc import Mapping

import psutil

from cluster.values import Usage

_GIB = 1024**3


class UsageMeter:
    """Of this process. ``reserved`` are the resources that Ray has assigned to it: "CPU", "GPU"."""

    def __init__(self, replica: str, reserved: Mapping[str, float]) -> None:
        self._replica = replica
        self._reserved = dict(reserved)
        self._process = psutil.Process()
        self._at, self._cpu_s = time.monotonic(), self._used()

    def read(self, requests: int) -> Usage:
        """Since it was last read, or made. Memory is what is held now."""
        now, cpu_s = time.monotonic(), self._used()
        passed, spent = now - self._at, cpu_s - self._cpu_s
        self._at, self._cpu_s = now, cpu_s
        return Usage(
            replica=self._replica,
            cpu_s=spent,
            reserved_cpu_s=passed * self._reserved.get("CPU", 0.0),
            reserved_gpu_s=passed * self._reserved.get("GPU", 0.0),
            gib_s=passed * self._process.memory_info().rss / _GIB,
            requests=requests,
        )

    def _used(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)
