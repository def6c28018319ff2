"""Reference profiles: windows of the training data in the whole's bins."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import DataError
from features.definitions import Column
from features.profiles.profile import Profile
from features.profiles.reference_profile import FINE_BINS, ReferenceProfile, count_cells, profile_windows
from tests.factories.errors import raises

COLUMNS = (Column(name="x", kind="number"), Column(name="c", kind="category"))
HOUR_S = 3600.0


def frame(seed: int, rows: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    when = rng.integers(0, 10 * 3600, rows) * 1_000_000 + 1_700_000_000_000_000
    x = np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows))
    c = rng.choice(["a", "b", "rare"], rows, p=[0.6, 0.399, 0.001])
    return pa.table({"as_of": pa.array(when, pa.timestamp("us", "UTC")), "x": x, "c": c})


def test_reference_profile_counts_every_row_in_its_window_and_cell():
    table = frame(1, 5000)
    reference = ReferenceProfile.build(profile_windows(table, COLUMNS, HOUR_S), HOUR_S)
    hours = table["as_of"].cast(pa.int64()).to_numpy() // 3_600_000_000
    assert reference.starts == tuple(np.unique(hours) * HOUR_S)
    for cells in reference.cells.values():
        assert cells.sum(axis=1).tolist() == np.unique(hours, return_counts=True)[1].tolist()
    x = table["x"].to_numpy()
    whole = reference.cells["x"].sum(axis=0)
    assert whole[-2] == np.isnan(x).sum()
    assert whole.size == FINE_BINS + 2
    assert np.abs(whole[:-2] / whole[:-2].sum() - 1 / FINE_BINS).max() < 0.03


def test_count_cells_separates_rare_new_missing_and_invalid():
    reference = ReferenceProfile.build(profile_windows(frame(2, 4000), COLUMNS, HOUR_S), HOUR_S)
    live = Profile.empty(COLUMNS)
    live.update(pa.table({"x": [np.inf, 0.0, None], "c": ["a", "never seen", "rare"]}))
    live.update(pa.table({"c": pa.array([None], pa.string())}))
    cells = count_cells(reference.bins, live)
    assert reference.bins["c"].values == ("a", "b")
    assert cells["c"].tolist() == [1, 0, 1, 1, 1, 0]
    assert cells["x"][-2:].tolist() == [1, 1]
    assert cells["x"].sum() == 3


def test_reference_profile_bytes_round_trip():
    reference = ReferenceProfile.build(profile_windows(frame(3, 2000), COLUMNS, HOUR_S), HOUR_S)
    again = ReferenceProfile.from_bytes(reference.to_bytes())
    assert again.to_bytes() == reference.to_bytes()
    assert (again.starts, again.bins, again.window_s) == (reference.starts, reference.bins, HOUR_S)


@pytest.mark.parametrize("data", [b"", b"{}", b"\x00\xff", b'{"starts": 3}'])
def test_reference_profile_from_garbage_is_refused(data):
    with raises(DataError, "data.invalid_profile"):
        ReferenceProfile.from_bytes(data)


def test_reference_profile_without_rows_or_times_is_refused():
    with raises(DataError, "data.profile_without_rows"):
        ReferenceProfile.build({}, HOUR_S)
    table = pa.table({"as_of": pa.array([None], pa.timestamp("us", "UTC")), "x": [1.0]})
    with raises(DataError, "data.rows_without_time", rows=1, column="as_of"):
        profile_windows(table, COLUMNS, HOUR_S)


def test_bins_of_constant_column_have_no_edges():
    table = pa.table({"as_of": pa.array([0] * 50, pa.timestamp("us", "UTC")), "x": [2.0] * 50})
    reference = ReferenceProfile.build(profile_windows(table, COLUMNS[:1], HOUR_S), HOUR_S)
    assert reference.bins["x"].edges == ()
    assert reference.cells["x"].tolist() == [[50, 0, 0]]
