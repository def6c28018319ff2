"""A shuffled table that is larger than memory gives the same bytes as materialize."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from features.online import bulk_load, materialize
from features.online.bulk_load import load_batches
from tests.factories.features.killed_materialize import events
from tests.factories.features.stores import MemoryStore
from tests.factories.features.views import VIEW

END_US = 1 << 60


@pytest.fixture
def shuffled() -> pl.DataFrame:
    return events().sample(fraction=1.0, shuffle=True, seed=3)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_load, "MAX_EVENTS", 300)
    monkeypatch.setattr(materialize, "CHUNK_EVENTS", 100)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("intervals", [1 << 20, 16])
def test_load_batches_in_ranges_equals_materialize(
    shuffled: pl.DataFrame, intervals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_load, "MAX_INTERVALS", intervals)
    whole, ranges, reads = MemoryStore(), MemoryStore(), []

    def batches():
        reads.append(1)
        return (part.to_arrow() for part in shuffled.iter_slices(70))

    assert load_batches(ranges, VIEW, batches, END_US) == materialize.materialize(whole, VIEW, events(), END_US) == 4000
    assert ranges.values == whole.values
    assert len(reads) == 3
    assert load_batches(ranges, VIEW, batches, END_US) == 0


@pytest.mark.usefixtures("small")
def test_load_batches_continues_after_interruption(shuffled: pl.DataFrame) -> None:
    class Failing(MemoryStore):
        left = 9

        def put_many(self, values) -> None:
            self.left -= 1
            if not self.left:
                raise OSError("no space left")
            super().put_many(values)

    whole, resumed = MemoryStore(), Failing()
    materialize.materialize(whole, VIEW, events(), END_US)

    def batches():
        return (part.to_arrow() for part in shuffled.iter_slices(70))

    with pytest.raises(OSError, match="space"):
        load_batches(resumed, VIEW, batches, END_US)
    assert 0 < load_batches(resumed, VIEW, batches, END_US) < 4000
    assert resumed.values == whole.values


@pytest.mark.usefixtures("small")
def test_load_batches_keeps_one_range_in_memory(shuffled: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    applied = bulk_load.apply_events
    monkeypatch.setattr(
        bulk_load, "apply_events", lambda *arguments: sizes.append(arguments[-1].height) or applied(*arguments)
    )
    load_batches(MemoryStore(), VIEW, lambda: (part.to_arrow() for part in shuffled.iter_slices(70)), END_US)
    assert sum(sizes) == 4000
    assert np.max(sizes) <= 2 * 300
