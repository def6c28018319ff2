"""Values that are exported again; a list replaces Ray's gauge."""

import gc
import threading
import weakref

import pytest

from cluster import persistent_gauge
from cluster.persistent_gauge import PersistentGauge


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, dict[str, str]]]:
    values: list[tuple[float, dict[str, str]]] = []

    class FakeGauge:
        def __init__(self, *unused: object) -> None: ...

        def set(self, value: float, tags: dict[str, str]) -> None:
            values.append((value, tags))

    monkeypatch.setattr(persistent_gauge, "Gauge", FakeGauge)
    return values


def test_republish_exports_the_newest_value_of_each_label(exported: list) -> None:
    gauge = PersistentGauge("g", "d", ("model", "kind"))
    gauge.set(1.0, {"model": "a", "kind": "x"})
    gauge.set(2.0, {"model": "a", "kind": "y"})
    gauge.set(3.0, {"model": "a", "kind": "x"})
    exported.clear()
    gauge.republish()
    assert sorted(exported, key=lambda one: one[0]) == [
        (2.0, {"model": "a", "kind": "y"}),
        (3.0, {"model": "a", "kind": "x"}),
    ]


def test_republish_after_clear_exports_nothing(exported: list) -> None:
    gauge = PersistentGauge("g", "d", ("model",))
    gauge.set(1.0, {"model": "a"})
    gauge.clear()
    exported.clear()
    gauge.republish()
    assert exported == []


def test_gauges_share_one_thread_that_keeps_none_alive(exported: list) -> None:
    gauges = [PersistentGauge("g", "d", ("model",)) for _ in range(3)]
    references = [weakref.ref(gauge) for gauge in gauges]
    assert sum(thread.name == "gauges" for thread in threading.enumerate()) == 1
    del gauges
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
