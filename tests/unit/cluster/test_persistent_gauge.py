"""What Ray is told, and told again; Ray's gauge is played by a list."""

import gc
import threading

import pytest

from cluster import persistent_gauge
from cluster.persistent_gauge import PersistentGauge


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, dict[str, str]]]:
    heard: list[tuple[float, dict[str, str]]] = []

    class Played:
        def __init__(self, *unused: object) -> None: ...

        def set(self, value: float, tags: dict[str, str]) -> None:
            heard.append((value, tags))

    monkeypatch.setattr(persistent_gauge, "Gauge", Played)
    return heard


def test_republish_exports_the_newest_value_of_each_tag_set(told: list) -> None:
    gauge = PersistentGauge("g", "d", ("model", "kind"))
    gauge.set(1.0, {"model": "a", "kind": "x"})
    gauge.set(2.0, {"model": "a", "kind": "y"})
    gauge.set(3.0, {"model": "a", "kind": "x"})
    told.clear()
    gauge.republish()
    assert sorted(told, key=lambda one: one[0]) == [
        (2.0, {"model": "a", "kind": "y"}),
        (3.0, {"model": "a", "kind": "x"}),
    ]


def test_republish_after_clear_exports_nothing(told: list) -> None:
    gauge = PersistentGauge("g", "d", ("model",))
    gauge.set(1.0, {"model": "a"})
    gauge.clear()
    told.clear()
    gauge.republish()
    assert told == []


def test_gauges_share_one_thread_that_keeps_none_alive(told: list) -> None:
    made = [PersistentGauge("g", "d", ("model",)) for _ in range(3)]
    assert sum(thread.name == "gauges" for thread in threading.enumerate()) == 1
    kept = len(persistent_gauge._republisher._gauges)
    del made
    gc.collect()
    assert len(persistent_gauge._republisher._gauges) == kept - 3
