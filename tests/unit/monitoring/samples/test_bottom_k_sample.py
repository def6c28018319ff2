"""The merge law of the sample: any order, any split, any repetition gives the same rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cluster.errors import DataError
from monitoring.samples.bottom_k_sample import Reservoir

SCHEMA = pa.schema([("x", pa.float64()), ("c", pa.string())])


def table(ids: list[int]) -> pa.Table:
    return pa.table({"x": [float(i) for i in ids], "c": [f"v{i % 3}" for i in ids]}, SCHEMA)


def sample(ids: list[int], size: int = 8) -> Reservoir:
    made = Reservoir(size, SCHEMA)
    made.update(table(ids), pa.array([f"request-{i}" for i in ids]))
    return made


@given(st.lists(st.integers(0, 60), max_size=60), st.data())
def test_any_split_order_and_repetition_gives_the_same_sample(ids, data):
    whole = sample(ids)
    shuffled = data.draw(st.permutations(ids))
    cut = data.draw(st.integers(0, len(ids)))
    left, right = sample(shuffled[:cut]), sample(shuffled[cut:])
    again = Reservoir.from_bytes(right.to_bytes(), 8)
    right.merge(left)
    left.merge(again)
    left.merge(again)
    assert left.rows.equals(whole.rows)
    assert right.rows.equals(whole.rows)
    assert whole.rows.num_rows == min(8, len(set(ids)))


def test_every_row_is_as_likely_as_any_other():
    chosen = np.zeros(40)
    for start in range(0, 40_000, 40):
        rows = sample(list(range(start, start + 40)), 10).rows
        chosen += np.bincount((rows.column("x").to_numpy() - start).astype(int), minlength=40)
    # 1,000 samples; counts of 250 each, without replacement within a sample.
    assert stats.chisquare(chosen).pvalue > 1e-4


def test_what_is_no_sample_or_another_one_is_refused():
    with pytest.raises(DataError, match="not a sample"):
        Reservoir.from_bytes(b"nonsense", 8)
    with pytest.raises(DataError, match="different sizes"):
        sample([1]).merge(sample([1], 9))
    with pytest.raises(DataError, match="each with its id"):
        sample([1]).update(table([2, 3]), pa.array(["one"]))
    with pytest.raises(DataError, match="keep at least one"):
        Reservoir(0, SCHEMA)
