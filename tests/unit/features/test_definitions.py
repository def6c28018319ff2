"""Definitions as data: they survive JSON, are hashed by content, and refuse what cannot be served."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest

from cluster.errors import ProjectError
from features.builders import category, derive, number, rolling, timestamp
from features.definitions import Entity, FeatureSet, FeatureView


def view(**changes: object) -> FeatureView:
    declared = {
        "name": "spending",
        "entity": Entity(name="shop", keys=("shop",)),
        "source": "visits",
        "event_time": "at",
        "known_at": "known",
        "aggregates": rolling("spent", timedelta(hours=2), "spent_2h"),
    }
    return FeatureView(**{**declared, **changes})


def feature_set(**changes: object) -> FeatureSet:
    declared = {
        "name": "set",
        "request": (*category("shop"), *number("price"), *timestamp("when")),
        "derived": (derive("hour", pl.col("when").dt.hour(), "category"),),
        "as_of": derive("as_of", pl.col("when") - timedelta(hours=2), "timestamp"),
        "views": (view(),),
    }
    return FeatureSet(**{**declared, **changes})


def test_json_brings_back_an_equal_set_with_an_equal_hash() -> None:
    again = FeatureSet.model_validate_json(feature_set().model_dump_json())
    assert again == feature_set()
    assert again.content_hash == feature_set().content_hash


def test_the_hash_is_of_the_content_not_of_the_name() -> None:
    assert feature_set(name="other").content_hash == feature_set().content_hash
    wider = view(aggregates=rolling("spent", timedelta(hours=3), "spent_2h"))
    assert feature_set(views=(wider,)).content_hash != feature_set().content_hash
    assert wider.content_hash != view().content_hash


def test_the_model_s_columns_leave_time_stamps_out() -> None:
    names = [c.name for c in feature_set().columns]
    assert names == ["shop", "price", "hour", "spent_2h_mean", "spent_2h_count"]
    chosen = feature_set(features=("hour", "price"))
    assert [c.name for c in chosen.columns] == ["hour", "price"]


def test_python_callbacks_are_refused() -> None:
    with pytest.raises(ProjectError, match="Python function"):
        derive("bad", pl.col("price").map_elements(lambda x: x, return_dtype=pl.Float64))


def test_a_text_that_says_python_is_no_callback() -> None:
    assert derive("snake", pl.col("shop") == "python").expr is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": ("nowhere",)}, "nowhere"),
        ({"derived": (derive("price", pl.col("price")),)}, "more than once"),
        ({"features": ("price", "price")}, "names price more than once"),
        ({"views": (view(), view(aggregates=rolling("spent", timedelta(hours=3), "spent_3h")))}, "names view spending"),
        ({"derived": (derive("dear", pl.col("cost") > 9),)}, "'dear' reads cost, which is no request column"),
        ({"as_of": derive("as_of", pl.col("then"), "timestamp")}, "'as_of' reads then"),
        ({"as_of": derive("as_of", pl.col("when").dt.hour())}, "as_of of feature set 'set' is a number"),
        ({"views": (view(entity=Entity(name="city", keys=("city",))),)}, "keyed by city"),
    ],
)
def test_a_set_that_contradicts_itself_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        feature_set(**changes)


def test_a_view_of_nothing_is_refused() -> None:
    with pytest.raises(ProjectError, match="no aggregates"):
        view(aggregates=())


def test_a_view_that_derives_a_name_twice_is_refused() -> None:
    with pytest.raises(ProjectError, match="derives twice more than once"):
        view(derived=(derive("twice", pl.col("spent") * 2), derive("twice", pl.col("spent") + 2)))
