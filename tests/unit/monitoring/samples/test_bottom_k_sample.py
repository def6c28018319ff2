"""The law of the sample: any order, any split, any repetition gives the same rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cluster.errors import DataError
from monitoring.samples.bottom_k_sample import BottomKSample
from tests.factories.errors import raises

SCHEMA = pa.schema([("x", pa.float64()), ("c", pa.string())])


def table(ids: list[int]) -> pa.Table:
    return pa.table({"x": [float(i) for i in ids], "c": [f"v{i % 3}" for i in ids]}, SCHEMA)


def sample(*parts: list[int], size: int = 8) -> BottomKSample:
    bottom_k = BottomKSample(size, SCHEMA)
    for ids in parts:
        bottom_k.update(table(ids), pa.array([f"request-{i}" for i in ids], pa.string()))
    return bottom_k


@given(st.lists(st.integers(0, 60), max_size=60), st.data())
def test_any_split_order_and_repetition_gives_the_same_sample(ids, data):
    whole = sample(ids)
    shuffled = data.draw(st.permutations(ids))
    cut = data.draw(st.integers(0, len(ids)))
    left, right = shuffled[:cut], shuffled[cut:]
    assert sample(left, right, right).rows.equals(whole.rows)
    assert sample(right, left).rows.equals(whole.rows)
    assert whole.rows.num_rows == min(8, len(set(ids)))


def test_every_row_is_equally_likely():
    chosen = np.zeros(40)
    for start in range(0, 40_000, 40):
        rows = sample(list(range(start, start + 40)), size=10).rows
        chosen += np.bincount((rows.column("x").to_numpy() - start).astype(int), minlength=40)
    # 1,000 samples; counts of 250 each, without replacement within a sample.
    assert stats.chisquare(chosen).pvalue > 1e-4


def test_rows_of_other_columns_and_empty_samples_are_refused():
    with raises(DataError, "data.sample_columns"):
        sample([1]).update(table([2, 3]), pa.array(["one"]))
    with raises(DataError, "data.empty_sample", size=0):
        BottomKSample(0, SCHEMA)
