"""Differences between served and offline features are found bit for bit and counted."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from features.builders import category, derive, number, timestamp
from features.definitions import Aggregate, Entity, FeatureSet, FeatureView, Latest
from features.inspection.training_serving_skew import compare_frames, merge_skews
from tests.factories.features.views import EPOCH

FEATURES = FeatureSet(
    name="f",
    request=(*category("shop"), *number("price"), *timestamp("at")),
    derived=(derive("double", pl.col("price") * 2),),
    as_of=derive("as_of", pl.col("at"), "timestamp"),
    views=(
        FeatureView(
            name="v", entity=Entity(name="shop", keys=("shop",)), source="s", event_time="at", known_at="at",
            aggregates=(Aggregate(column="x", op="mean", window=timedelta(days=1), name="mean"),),
            latest=(Latest(column="c", name="mood", kind="category"),),
        ),
    ),
)  # fmt: skip


def frame(**changes: list) -> pl.DataFrame:
    cells = {
        "id": ["a", "b", "c"],
        "as_of": [EPOCH] * 3,
        "double": [1.0, 2.0, None],
        "mean": [0.1, None, 0.3],
        "mood": ["x", None, "y"],
    }
    return pl.DataFrame({**cells, **changes})


def test_compare_frames_of_equal_frames_has_no_mismatch() -> None:
    comparisons = compare_frames(FEATURES, frame(), frame())
    assert [(one.origin, one.feature, one.rows, one.mismatches) for one in comparisons] == [
        ("request", "double", 3, 0), ("v", "mean", 3, 0), ("v", "mood", 3, 0),
    ]  # fmt: skip
    assert all(one.example is None and one.largest_difference == 0 for one in comparisons)


def test_feature_derived_from_joined_ones_has_its_own_origin() -> None:
    twice = derive("twice", pl.col("mean") * 2)
    features = FeatureSet(**{**FEATURES.model_dump(), "derived": (*FEATURES.derived, twice)})
    comparisons = compare_frames(features, frame(twice=[0.2, None, 0.6]), frame(twice=[0.2, 0.1, 0.6]))
    assert [(one.origin, one.feature, one.mismatches) for one in comparisons][2:] == [
        ("v", "mood", 0), ("derived", "twice", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("served", "offline", "expected"),
    [
        ([0.1, None, 0.3], [np.nextafter(0.1, 1), None, 0.3], (1, 0, 0)),
        ([0.1, None, 0.3], [0.1, 0.2, 0.3], (1, 1, 0)),
        ([0.1, None, 0.3], [None, None, None], (2, 0, 2)),
        ([0.0, None, 0.3], [-0.0, None, 0.3], (1, 0, 0)),
        ([0.0, None, 0.3], [None, 0.0, 0.3], (2, 1, 1)),
    ],
)
def test_compare_frames_counts_a_bit_or_a_null_as_mismatch(served: list, offline: list, expected: tuple) -> None:
    mean = compare_frames(FEATURES, frame(mean=served), frame(mean=offline))[1]
    assert (mean.mismatches, mean.only_offline, mean.only_served) == expected
    assert mean.example is not None


def test_compare_frames_of_categories_has_an_example() -> None:
    mood = compare_frames(FEATURES, frame(mood=["x", "u", "y"]), frame(mood=["x", "w", None]))[2]
    assert (mood.mismatches, mood.only_served, mood.largest_difference) == (2, 1, 0)
    assert mood.example is not None
    assert (mood.example.id, mood.example.served_value, mood.example.offline_value) == ("b", "u", "w")


def test_merge_skews_adds_up_parts() -> None:
    parts = [
        *compare_frames(FEATURES, frame(), frame(mean=[1.1, None, 0.3])),
        *compare_frames(FEATURES, frame(), frame(mean=[0.1, None, 2.3])),
    ]
    mean = next(one for one in merge_skews(parts) if one.feature == "mean")
    assert (mean.rows, mean.mismatches, mean.largest_difference) == (6, 2, pytest.approx(2.0))
    assert len(merge_skews(parts)) == 3
