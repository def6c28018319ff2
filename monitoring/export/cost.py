"""What a model costs: the CPUs, GPUs and memory that its replicas hold, whether they use them or not. Pure.

A model is charged what nobody else can have meanwhile: reserved CPUs and GPUs by the second, and memory as it is held. Work
that serves several models (training jobs, the store, HAProxy, the monitor itself) is not charged to any.
"""

from __future__ import annotations

from cluster.values import Frozen, Usage

HOUR_S = 3600.0


class Prices(Frozen):
    """Per hour, in whatever currency; of a CPU, a GPU and a GiB of memory."""

    cpu: float
    gpu: float
    gib: float


FREE = Prices(cpu=0.0, gpu=0.0, gib=0.0)


class Used(Frozen):
    """Sums of what replicas have told, in seconds; of memory in GiB times seconds."""

    cpu_s: float = 0.0
    reserved_cpu_s: float = 0.0
    reserved_gpu_s: float = 0.0
    gib_s: float = 0.0
    requests: int = 0

    def plus(self, more: Usage) -> Used:
        return Used(**{name: value + getattr(more, name) for name, value in self.model_dump().items()})


def cost(used: Used, prices: Prices) -> float:
    held = used.reserved_cpu_s * prices.cpu + used.reserved_gpu_s * prices.gpu + used.gib_s * prices.gib
    return held / HOUR_S
