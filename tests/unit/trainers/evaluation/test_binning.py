"""Bins of numbers and categories, and columns that have none."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ProjectError
from tests.factories.errors import raises
from trainers.evaluation.binning import NO_BIN, Binning


@pytest.mark.parametrize(
    ("column", "code"),
    [
        ("carriage", "project.unknown_gate_column"),
        ("at", "project.gate_column_type"),
        ("pixels", "project.gate_column_type"),
    ],
)
def test_fit_column_without_bins_raises(column: str, code: str) -> None:
    table = pa.table({"at": pa.array([0, 1], pa.timestamp("us")), "pixels": pa.array([[1.0], [2.0]])})
    with raises(ProjectError, code, column=column):
        Binning.fit(table, column, bins=4, min_rows=100)


@given(
    st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(float("nan"))), min_size=1, max_size=60),
    st.integers(2, 6),
)
def test_codes_of_numbers_match_bin_labels(values: list[float | None], bins: int) -> None:
    table = pa.table({"x": pa.array(values, pa.float64())})
    binning = Binning.fit(table, "x", bins, 1)
    last = len(binning.labels) - 1
    for value, code in zip(values, binning.codes(table), strict=True):
        if value is None or value != value:
            assert code == last
        elif not binning.edges:
            assert code == NO_BIN
        else:
            assert code == sum(edge <= value for edge in binning.edges)
    assert len(set(binning.labels)) >= 1
