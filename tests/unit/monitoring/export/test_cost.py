"""Cost of reserved resources."""

from __future__ import annotations

import pytest

from cluster.values import Usage
from monitoring.export.cost import ResourcePrices, UsageTotals, total_cost


def test_total_cost_is_that_of_reserved_resources():
    usage = Usage(replica="a", cpu_s=1.0, reserved_cpu_s=7200.0, reserved_gpu_s=3600.0, gib_s=3600.0, requests=1)
    assert total_cost(UsageTotals().add(usage), ResourcePrices(cpu=0.5, gpu=2.0, gib=0.25)) == pytest.approx(3.25)


def test_resources_are_free_without_prices():
    usage = UsageTotals(reserved_cpu_s=3600.0, reserved_gpu_s=3600.0, gib_s=3600.0)
    assert total_cost(usage, ResourcePrices()) == 0.0
