"""What a model costs: the CPUs, GPUs and memory that its replicas reserve, whether they use them or not. Pure.

A model pays for what it keeps from others: reserved CPUs and GPUs by the second, and the memory in use. Work that
serves several models (training jobs, the store, HAProxy, the monitor itself) is charged to none.
"""

from __future__ import annotations

from cluster.values import Frozen, Usage

HOUR_S = 3600.0


class ResourcePrices(Frozen):
    """Prices per hour, in any currency."""

    cpu: float = 0.0
    """Of a CPU."""
    gpu: float = 0.0
    """Of a GPU."""
    gib: float = 0.0
    """Of a GiB of memory."""


class UsageTotals(Frozen):
    """Sums of what replicas have reported."""

    cpu_s: float = 0.0
    """CPU seconds used."""
    reserved_cpu_s: float = 0.0
    reserved_gpu_s: float = 0.0
    gib_s: float = 0.0
    """Memory, GiB times seconds."""
    requests: int = 0

    def add(self, more: Usage) -> UsageTotals:
        """The sums with one more report."""
        return UsageTotals(**{name: value + getattr(more, name) for name, value in self.model_dump().items()})


def total_cost(usage: UsageTotals, prices: ResourcePrices) -> float:
    """Cost of everything reserved so far, in the currency of the prices."""
    hourly = usage.reserved_cpu_s * prices.cpu + usage.reserved_gpu_s * prices.gpu + usage.gib_s * prices.gib
    return hourly / HOUR_S
