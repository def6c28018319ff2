"""Annotations: what counts of several labelers, and what of it the label log lacks."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.labeling.annotations import (
    changed_annotations,
    effective_labels,
    label_matrix,
    labels_to_log,
    no_annotations,
)
from features.types import INSTANT
from tests.factories.effort import examples

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
GIVEN = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 1.0, 2.0]), st.sampled_from(["ann", "bo", "cy", "di"])),
    max_size=30,
)


def minutes(count: int) -> datetime:
    return NOON + timedelta(minutes=count)


def annotations(*rows: tuple[str, float, str]) -> pl.DataFrame:
    """Annotations, one a minute."""
    timed = [(*row, minutes(i)) for i, row in enumerate(rows)]
    return pl.DataFrame(timed, schema=no_annotations().schema, orient="row")


def decided(*rows: tuple[str, float, str], kind: str = "multiclass") -> dict[str, float]:
    effective = effective_labels(annotations(*rows), kind)
    return dict(effective.select("id", "label").iter_rows())


@pytest.mark.parametrize(
    ("rows", "label"),
    [
        ([("a", 1.0, "ann")], 1.0),
        ([("a", 1.0, "ann"), ("a", 0.0, "bo")], 1.0),
        ([("a", 1.0, "ann"), ("a", 0.0, "bo"), ("a", 0.0, "cy")], 0.0),
        ([("a", 1.0, "ann"), ("a", 0.0, "ann")], 0.0),
        # A labeler who comes back to a row has spoken later than the other one.
        ([("a", 1.0, "ann"), ("a", 0.0, "bo"), ("a", 2.0, "ann")], 0.0),
    ],
)
def test_effective_label_is_the_most_frequent_and_of_a_tie_the_first(
    rows: list[tuple[str, float, str]], label: float
) -> None:
    assert decided(*rows) == {"a": label}


def test_effective_label_of_a_regression_is_the_median() -> None:
    rows = [("a", 1.0, "ann"), ("a", 9.0, "bo"), ("a", 2.0, "cy"), ("b", 1.0, "ann"), ("b", 2.0, "bo")]
    assert decided(*rows, kind="regression") == {"a": 2.0, "b": 1.5}


@settings(max_examples=examples(300))
@given(GIVEN)
def test_effective_label_has_no_fewer_votes_than_any_other(rows: list[tuple[str, float, str]]) -> None:
    newest = {(id, labeler): label for id, label, labeler in rows}
    votes = {id: Counter(label for (of, _), label in newest.items() if of == id) for id, _ in newest}
    result = decided(*rows)
    assert result.keys() == votes.keys()
    assert all(votes[id][label] == max(votes[id].values()) for id, label in result.items())


@settings(max_examples=examples(200))
@given(GIVEN)
def test_label_matrix_has_each_labelers_newest_label(rows: list[tuple[str, float, str]]) -> None:
    matrix, labelers = label_matrix(annotations(*rows))
    newest = {(id, labeler): label for id, label, labeler in rows}
    assert labelers == tuple(sorted({labeler for _, labeler in newest}))
    assert np.isfinite(matrix).sum() == len(newest)
    for column, labeler in zip(matrix.T, labelers, strict=True):
        assert sorted(column[np.isfinite(column)]) == sorted(v for (_, who), v in newest.items() if who == labeler)


def test_changed_annotations_leave_out_what_a_labeler_has_said() -> None:
    before = annotations(("a", 1.0, "ann"), ("b", 1.0, "ann"), ("b", 0.0, "ann"))
    given_now = annotations(("a", 1.0, "ann"), ("b", 1.0, "ann"), ("a", 1.0, "bo"))
    assert changed_annotations(before, given_now).select("id", "labeler").rows() == [("b", "ann"), ("a", "bo")]


def test_labels_to_log_are_those_that_the_log_lacks_and_no_older_ones() -> None:
    effective = effective_labels(annotations(*((id, 1.0, "ann") for id in "abcd")), "binary")
    arrivals = [("a", 1.0, minutes(60)), ("b", 0.0, minutes(-60)), ("c", 1.0, minutes(-60)), ("c", 0.0, minutes(60))]
    logged = pl.DataFrame(arrivals, schema={"id": pl.String, "label": pl.Float64, "received": INSTANT}, orient="row")
    assert labels_to_log(effective, logged).rows() == [("b", 1.0), ("d", 1.0)]


@settings(max_examples=examples(100))
@given(GIVEN)
def test_labels_that_are_logged_are_not_logged_again(rows: list[tuple[str, float, str]]) -> None:
    effective = effective_labels(annotations(*rows), "binary")
    logged = effective.select("id", "label", received=pl.lit(minutes(1_000)).cast(INSTANT))
    assert labels_to_log(effective, logged).is_empty()
