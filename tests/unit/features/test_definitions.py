"""Definitions: JSON round trip, content hashes, and refusal of what cannot be served."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest

from cluster.errors import ProjectError
from features.builders import category, derive, number, rolling, timestamp
from features.definitions import Entity, FeatureSet
from tests.factories.errors import raises
from tests.factories.features.shops import spending_view as view


def feature_set(**changes: object) -> FeatureSet:
    declared = {
        "name": "set",
        "request": (*category("shop"), *number("price"), *timestamp("when")),
        "derived": (derive("hour", pl.col("when").dt.hour(), "category"),),
        "as_of": derive("as_of", pl.col("when") - timedelta(hours=2), "timestamp"),
        "views": (view(),),
    }
    return FeatureSet(**{**declared, **changes})


def test_feature_set_read_from_json_has_equal_hash() -> None:
    again = FeatureSet.model_validate_json(feature_set().model_dump_json())
    assert again == feature_set()
    assert again.content_hash == feature_set().content_hash


def test_content_hash_depends_on_content_but_not_on_name() -> None:
    assert feature_set(name="other").content_hash == feature_set().content_hash
    wider = view(aggregates=rolling("spent", timedelta(hours=3), "spent_2h"))
    assert feature_set(views=(wider,)).content_hash != feature_set().content_hash
    assert wider.content_hash != view().content_hash


def test_feature_set_columns_exclude_timestamps() -> None:
    names = [c.name for c in feature_set().columns]
    assert names == ["shop", "price", "hour", "spent_2h_mean", "spent_2h_count"]
    chosen = feature_set(features=("hour", "price"))
    assert [c.name for c in chosen.columns] == ["hour", "price"]


def test_derive_with_python_callback_is_refused() -> None:
    with raises(ProjectError, "project.derived_calls_python"):
        derive("bad", pl.col("price").map_elements(lambda x: x, return_dtype=pl.Float64))


def test_derive_with_text_python_is_accepted() -> None:
    assert derive("snake", pl.col("shop") == "python").expr is not None


@pytest.mark.parametrize(
    ("changes", "code", "fields"),
    [
        ({"features": ("nowhere",)}, "unknown_feature", {"features": ["nowhere"]}),
        ({"derived": (derive("price", pl.col("price")),)}, "duplicate_names", {"names": ["price"]}),
        ({"features": ("price", "price")}, "duplicate_names", {"names": ["price"]}),
        (
            {"views": (view(), view(aggregates=rolling("spent", timedelta(hours=3), "spent_3h")))},
            "duplicate_names",
            {"names": ["view spending"]},
        ),
        (
            {"derived": (derive("dear", pl.col("cost") > 9),)},
            "unknown_derived_input",
            {"feature": "dear", "columns": ["cost"]},
        ),
        ({"as_of": derive("as_of", pl.col("then"), "timestamp")}, "unknown_request_column", {"feature": "as_of"}),
        ({"as_of": derive("as_of", pl.col("when").dt.hour())}, "as_of_kind", {"kind": "number"}),
        (
            {"views": (view(entity=Entity(name="city", keys=("city",))),)},
            "unknown_request_column",
            {"view": "spending", "columns": ["city"]},
        ),
    ],
)
def test_feature_set_that_contradicts_itself_is_refused(changes: dict, code: str, fields: dict) -> None:
    with raises(ProjectError, f"project.{code}", **fields):
        feature_set(**changes)


def test_feature_view_without_features_is_refused() -> None:
    with raises(ProjectError, "project.view_without_features", view="spending"):
        view(aggregates=())


def test_feature_view_with_repeated_derived_name_is_refused() -> None:
    with raises(ProjectError, "project.duplicate_names", names=["twice"]):
        view(derived=(derive("twice", pl.col("spent") * 2), derive("twice", pl.col("spent") + 2)))
