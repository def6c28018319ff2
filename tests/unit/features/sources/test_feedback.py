"""Labels of /feedback joined with their logged predictions, and how they land."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from cluster.errors import ProjectError
from features.builders import category, number, timestamp
from features.definitions import FeatureSet
from features.sources.feedback import feedback, join_labels, source_rows, with_feedback
from features.sources.source import Source
from features.types import INSTANT, KNOWN_FROM, POLARS_TYPES
from tests.factories.errors import raises
from tests.factories.features.landing import empty_table, land

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
FEATURES = FeatureSet(name="set", request=(*category("shop"), *number("price")))


def minutes(count: int) -> datetime:
    return NOON + timedelta(minutes=count)


def predictions(*ids: str, **features: object) -> pl.DataFrame:
    served = {"shop": "x", "price": 2.5} | features
    logged = [(name, NOON, minutes(-30), "3", served) for name in ids]
    return pl.DataFrame(
        logged, schema=["id", "at", "as_of", "version", "features"], orient="row"
    ).with_columns(pl.col("at", "as_of").cast(INSTANT))  # fmt: skip


def labels(*arrivals: tuple[str, float, int]) -> pl.DataFrame:
    rows = [(name, value, minutes(minute)) for name, value, minute in arrivals]
    return pl.DataFrame(rows, schema={"id": pl.String, "label": pl.Float64, "received": INSTANT}, orient="row")


def joined(predicted: list[pl.DataFrame], arrived: pl.DataFrame) -> pl.DataFrame:
    return join_labels(predicted, arrived, feedback("shop", FEATURES).columns)


def test_join_labels_has_features_as_served_and_the_arrival() -> None:
    rows = joined([predictions("a", "b"), predictions("c", "a", shop="again")], labels(("a", 1.0, 5), ("z", 1.0, 6)))
    assert rows.to_dicts() == [
        {
            "id": "a", "version": "3", "label": 1.0, "at": NOON, "received": minutes(5), "as_of": minutes(-30),
            "shop": "x", "price": 2.5,
        }
    ]  # fmt: skip


def test_join_labels_keeps_changes_and_leaves_out_repeats() -> None:
    arrivals = labels(("a", 0.0, 9), ("a", 1.0, 7), ("a", 1.0, 8), ("a", 0.0, 5), ("b", 1.0, 6))
    rows = joined([predictions("a", "b")], arrivals)
    assert rows.select("id", "label", "received").rows() == [
        ("a", 0.0, minutes(5)), ("b", 1.0, minutes(6)), ("a", 1.0, minutes(7)), ("a", 0.0, minutes(9)),
    ]  # fmt: skip


def test_join_labels_of_an_older_log_has_null_for_a_feature_that_it_lacks() -> None:
    features = FeatureSet(name="set", request=(*category("shop"), *number("price", "added")))
    rows = join_labels([predictions("a")], labels(("a", 1.0, -5)), feedback("shop", features).columns)
    assert rows.select("shop", "added", "received").rows() == [("x", None, NOON)]


def test_changed_label_lands_once_as_a_version_known_from_its_arrival() -> None:
    source, table = feedback("shop", FEATURES), empty_table(feedback("shop", FEATURES))
    arrivals = labels(("a", 0.0, 5), ("a", 1.0, 7))
    for count in (1, 2, 2):
        landed = land(source, table, joined([predictions("a")], arrivals.head(count)), minutes(60))
        table, reasons = landed.table, landed.reasons
        assert reasons == []
    assert table.select("label", KNOWN_FROM).rows() == [(0.0, None), (1.0, minutes(7))]


HISTORY = Source(
    name="sales", read=lambda: None, key=("sale",), event_time="sold_at", known_at="stored_at",
    columns=(*category("sale", "shop", "kind", "clerk"), *timestamp("sold_at", "stored_at")),
)  # fmt: skip
COLUMNS = {
    "sale": "id",
    "sold_at": "as_of",
    "stored_at": "received",
    "kind": pl.col("label").replace_strict({0.0: "return", 1.0: "sale"}),
}


def test_labeled_rows_are_rows_of_the_source_of_examples() -> None:
    labeled = joined([predictions("a")], labels(("a", 0.0, 5), ("a", 1.0, 7)))
    filled = {name: pl.col(value) if isinstance(value, str) else value for name, value in COLUMNS.items()}
    rows = source_rows(labeled, filled | {"shop": pl.col("shop")}, HISTORY.columns)
    assert rows.schema == {c.name: POLARS_TYPES[c.kind] for c in HISTORY.columns}
    assert rows.rows() == [
        ("a", "x", "return", None, minutes(-30), minutes(5)), ("a", "x", "sale", None, minutes(-30), minutes(7)),
    ]  # fmt: skip


def test_with_feedback_keeps_the_source() -> None:
    both = with_feedback(HISTORY, "shop", FEATURES, COLUMNS)
    assert (both.name, both.columns, both.key) == (HISTORY.name, HISTORY.columns, HISTORY.key)


@pytest.mark.parametrize(
    ("change", "unknown", "missing"),
    [
        ({"sale": None}, [], ["sale"]),
        ({"sold_at": None, "stored_at": None}, [], ["sold_at", "stored_at"]),
        ({"size": "label"}, ["size"], []),
        ({"kind": pl.col("label") + pl.col("weight")}, ["weight"], []),
    ],
)
def test_with_feedback_needs_columns_that_exist_for_key_and_times(
    change: dict[str, object], unknown: list[str], missing: list[str]
) -> None:
    columns = {name: value for name, value in (COLUMNS | change).items() if value is not None}
    with raises(ProjectError, "project.with_feedback", unknown=unknown, missing=missing):
        with_feedback(HISTORY, "shop", FEATURES, columns)


@pytest.mark.parametrize("name", ["label", "version"])
def test_feedback_of_features_with_one_of_its_names_is_refused(name: str) -> None:
    with raises(ProjectError, "project.duplicate_names", names=[name]):
        feedback("shop", FeatureSet(name="set", request=number(name)))
