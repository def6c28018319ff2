"""Labels of later rows: events of the entity in (t, t + within], known then; a naive reference counts each one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import ProjectError
from cluster.values import Task
from features.builders import category, number, timestamp
from features.definitions import Entity, FeatureSet
from features.offline.example_rows import build_examples
from features.offline.outcome_join import add_labels, lookup_rows
from features.offline.point_in_time import join
from features.outcomes import LabelWithin
from features.sources.outcome_labels import label_within
from features.sources.source import Examples, Source
from features.types import INSTANT
from tests.factories.effort import examples as effort
from tests.factories.errors import raises

START = datetime(2024, 1, 1, tzinfo=UTC)
CUSTOMER = Entity(name="customer", keys=("customer",))
SOURCE = Source(
    name="purchases",
    key=("id",),
    columns=(*category("id", "customer", "item"), *number("price"), *timestamp("bought_at", "stored_at")),
    event_time="bought_at",
    known_at="stored_at",
    read=lambda: None,
)
WITHIN = timedelta(days=90)


def days(count: float | None) -> datetime | None:
    return None if count is None else START + timedelta(days=count)


def purchases(*cells: tuple) -> pl.DataFrame:
    rows = [
        (str(i), c, item, price, days(bought), days(stored)) for i, (c, item, price, bought, stored) in enumerate(cells)
    ]
    return pl.DataFrame(
        rows,
        schema={"id": pl.String, "customer": pl.String, "item": pl.String, "price": pl.Float64, "bought_at": INSTANT,
                "stored_at": INSTANT},
        orient="row",
    )  # fmt: skip


def labeled(rows: pl.DataFrame, label: LabelWithin, until: datetime | None = None) -> list[tuple]:
    """Id, label and when it is known, of rows that are events, too."""
    features = FeatureSet(name="set", request=category("item"))
    task = Task(kind="regression", label="again")
    declared = Examples(source="purchases", id="id", label=label, event_time="bought_at")
    built = build_examples(rows, features, declared, task, until)
    outcomes = join(label.view, rows, lookup_rows(built, label)).get_column("label")
    return add_labels(built, outcomes, label).select("id", "label", "label_known_at").rows()


def naive(rows: pl.DataFrame, label: LabelWithin, event: str | None) -> list[tuple]:
    results = []
    for row in rows.iter_rows(named=True):
        end = row["bought_at"] + label.within
        following = [
            other["price"]
            for other in rows.iter_rows(named=True)
            if other["customer"] == row["customer"]
            and row["customer"] is not None
            and row["bought_at"] < other["bought_at"] <= end
            and max(other["stored_at"], other["bought_at"]) <= end + label.view.settle
            and event in (None, other["item"])
        ]
        value = {"any": float(bool(following)), "count": float(len(following)), "sum": sum(following)}[label.kind]
        if row["customer"] is not None:
            results.append((row["id"], value, end + label.view.settle))
    return results


cells = st.tuples(
    st.sampled_from(["p", "q", None]), st.sampled_from(["tea", "cup"]), st.sampled_from([1.0, 2.5, 4.0]),
    st.integers(0, 300), st.integers(0, 120),
)  # fmt: skip


@given(
    st.lists(cells, min_size=1, max_size=10),
    st.sampled_from(["any", "count", "sum"]),
    st.sampled_from([None, "tea"]),
    st.sampled_from([0, 30]),
)
@settings(max_examples=effort(500))
def test_label_within_is_the_naive_one(drawn: list[tuple], kind: str, item: str | None, settle: int) -> None:
    rows = purchases(*((c, i, price, bought, bought + lag) for c, i, price, bought, lag in drawn))
    label = label_within(
        SOURCE, CUSTOMER, WITHIN, kind=kind, value=pl.col("price") if kind == "sum" else None,
        event=None if item is None else pl.col("item") == item, settle=timedelta(days=settle),
    )  # fmt: skip
    assert labeled(rows, label) == naive(rows, label, item)


def test_positive_label_is_known_no_earlier_than_a_negative_one() -> None:
    rows = purchases(("p", "tea", 1.0, 0, 0), ("p", "tea", 1.0, 1, 1), ("q", "tea", 1.0, 0, 0))
    label = label_within(SOURCE, CUSTOMER, WITHIN)
    assert labeled(rows, label) == [("0", 1.0, days(90)), ("1", 0.0, days(91)), ("2", 0.0, days(90))]
    assert labeled(rows, label, days(90)) == [("0", 1.0, days(90)), ("2", 0.0, days(90))]
    assert labeled(rows, label, days(89)) == []


@pytest.mark.parametrize("changes", [{"kind": "sum"}, {"value": pl.col("price")}, {"settle": timedelta(days=-1)}])
def test_label_within_with_a_contradiction_is_refused(changes: dict) -> None:
    with raises(ProjectError, "project.label_within", source="purchases"):
        label_within(SOURCE, CUSTOMER, WITHIN, **changes)


@pytest.mark.parametrize(
    "label", [{"label": pl.col("price")}, {"label": label_within(SOURCE, CUSTOMER, WITHIN), "label_known_at": "at"}]
)
def test_examples_whose_label_has_no_or_two_times_are_refused(label: dict) -> None:
    with raises(ProjectError, "project.label_known_at", source="purchases"):
        Examples(source="purchases", id="id", **label)
