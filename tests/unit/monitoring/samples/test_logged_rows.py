"""Selections of logged rows keep their parts together."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from monitoring.samples.logged_rows import LoggedRows

ROWS = LoggedRows(
    frame=pa.table({"shop": [f"s{i % 2}" for i in range(10)], "n": np.arange(10)}),
    ids=np.array([f"id-{i}" for i in range(10)], object),
    times=np.arange(10.0),
    scores=np.arange(10.0) / 10,
    labels=np.where(np.arange(10) < 4, 1.0, np.nan),
)


def ids(rows: LoggedRows) -> list[int]:
    """Indices of the rows, the same in each part."""
    numbers = rows.frame["n"].to_pylist()
    assert rows.ids.tolist() == [f"id-{i}" for i in numbers]
    assert rows.times.tolist() == numbers
    assert (rows.scores * 10).round().tolist() == numbers
    return numbers


def test_sample_is_reproducible_and_keeps_the_order():
    sample = ids(ROWS.sample(4))
    assert sample == sorted(set(sample))
    assert len(sample) == 4
    assert ids(ROWS.sample(4)) == ids(ROWS.sample(4, seed=0)) == sample
    assert len({tuple(ids(ROWS.sample(4, seed))) for seed in range(9)}) > 1


def test_sample_of_no_fewer_rows_contains_all():
    assert ids(ROWS.sample(10)) == ids(ROWS.sample(11)) == list(range(10))
    assert len(ROWS.sample(9)) == 9


def test_between_includes_its_start_and_excludes_its_end():
    assert ids(ROWS.between(2.0, 5.0)) == [2, 3, 4]


def test_rows_are_selected_by_label_and_by_value():
    assert ids(ROWS.labeled_rows) == [0, 1, 2, 3]
    assert ids(ROWS.with_value("shop", "s1")) == [1, 3, 5, 7, 9]
    assert ids(ROWS.with_value("n", "3")) == [3]
    assert len(ROWS.with_value("nothing", "s1")) == 0
