"""Usage of this process, by clocks of the test's own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cluster.values import Usage
from deployments.telemetry import resource_usage
from deployments.telemetry.resource_usage import UsageMeter


class Machine:
    """In place of psutil's process and of the clock."""

    def __init__(self) -> None:
        self.now, self.user, self.system, self.rss = 100.0, 1.0, 0.5, 2 * 1024**3

    def monotonic(self) -> float:
        return self.now

    def cpu_times(self) -> SimpleNamespace:
        return SimpleNamespace(user=self.user, system=self.system)

    def memory_info(self) -> SimpleNamespace:
        return SimpleNamespace(rss=self.rss)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(resource_usage.psutil, "Process", lambda: machine)
    monkeypatch.setattr(resource_usage, "time", machine)
    return machine


def test_read_returns_the_usage_since_the_last_call(machine: Machine) -> None:
    meter = UsageMeter("replica", {"CPU": 0.5, "GPU": 1.0})
    machine.now, machine.user, machine.system = 104.0, 2.5, 0.75
    assert meter.read(7) == Usage(
        replica="replica", cpu_s=1.75, reserved_cpu_s=2.0, reserved_gpu_s=4.0, gib_s=8.0, requests=7
    )
    machine.now, machine.rss = 105.0, 1024**3
    assert meter.read(0) == Usage(
        replica="replica", cpu_s=0.0, reserved_cpu_s=0.5, reserved_gpu_s=1.0, gib_s=1.0, requests=0
    )


def test_read_of_a_replica_without_reservations_reserves_nothing(machine: Machine) -> None:
    meter = UsageMeter("replica", {})
    machine.now = 110.0
    usage = meter.read(1)
    assert (usage.reserved_cpu_s, usage.reserved_gpu_s) == (0.0, 0.0)
