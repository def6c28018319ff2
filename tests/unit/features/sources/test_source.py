"""Sources and their rules: every invalid row gets its reasons, and no row is lost."""

from __future__ import annotations

import itertools
from datetime import timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import DataError, ProjectError
from features.builders import category, derive, number, rolling, timestamp
from features.definitions import FeatureSet, Latest
from features.sources.source import Examples, require_columns
from features.sources.validation import REASON, check_rows, quarantine_rows
from features.types import KNOWN_FROM
from tests.factories.errors import raises
from tests.factories.features.shops import LATER, NOON
from tests.factories.features.shops import spending_view as spending
from tests.factories.features.shops import visits_source as source


def rows(*cells: tuple) -> pl.DataFrame:
    return pl.DataFrame(list(cells), schema=["id", "shop", "spent", "at", "known"], orient="row", strict=False)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("a", "x", 5.0, NOON, LATER), None),
        (("a", "x", None, NOON, LATER), None),
        (("a", "x", "five", NOON, LATER), "spent is not a number"),
        ((None, "x", 5.0, NOON, LATER), "id is missing"),
        (("a", None, 5.0, NOON, LATER), "shop is missing"),
        (("a", "x", 101.0, NOON, LATER), "spent is outside 0 to 100"),
        (("a", "x", 5.0, LATER, NOON), "known is before at"),
        (("a", "x", 5.0, None, LATER), "at is missing"),
    ],
)
def test_check_rows_gives_reason_of_violated_rule(row: tuple, reason: str | None) -> None:
    assert check_rows(source(), rows(row)).get_column(REASON).to_list() == [reason]


def test_check_rows_keeps_the_versions_of_a_repeated_key() -> None:
    late, one, other = (("a", shop, 1.0, NOON, at) for shop, at in (("late", LATER), ("one", NOON), ("other", NOON)))
    checked = [check_rows(source(), rows(*read)) for read in itertools.permutations((late, one, other))]
    accepted = [each.filter(pl.col(REASON).is_null()) for each in checked]
    assert all(each.equals(accepted[0]) for each in accepted), "whatever the order in which they are read"
    assert accepted[0].get_column("shop").to_list()[1:] == ["late"]
    assert accepted[0].get_column(KNOWN_FROM).to_list() == [None, LATER]
    assert all(each.get_column(REASON).drop_nulls().to_list() == ["repeats the key id"] for each in checked)


def test_check_rows_keeps_valid_row_after_invalid_one_of_the_same_key() -> None:
    checked = check_rows(source(), rows(("a", None, 1.0, NOON, NOON), ("a", "x", 1.0, NOON, LATER)))
    assert checked.get_column(REASON).null_count() == 1


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from(["x", None]), st.floats(-10, 200)), max_size=20
    )
)
def test_check_rows_returns_every_row(cells: list[tuple]) -> None:
    checked = check_rows(source(), rows(*[(i, s, v, NOON, LATER) for i, s, v in cells]))
    assert checked.height == len(cells)
    bad = checked.drop_nulls(REASON)
    assert quarantine_rows(source(), bad).null_count().sum_horizontal().item() == 0
    assert bad.height == len(cells) - len({i for i, s, v in cells if i and s and 0 <= v <= 100})


def test_check_rows_with_missing_column_is_refused() -> None:
    with raises(DataError, "data.missing_columns", source="visits", columns=["spent"]):
        check_rows(source(), rows(("a", "x", 1.0, NOON, LATER)).drop("spent"))


def test_source_with_unknown_or_mistyped_column_is_refused() -> None:
    with raises(ProjectError, "project.unknown_column", columns=["nowhere"]):
        source(required=("nowhere",))
    with raises(ProjectError, "project.column_kind", column="spent", kind="number"):
        source(event_time="spent")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        (
            {"columns": (*category("id", "shop", "shop"), *number("spent"), *timestamp("at", "known"))},
            "duplicate_names",
        ),
        ({"key": ()}, "source_without_key"),
        ({"ranges": {"spent": (100, 0)}}, "source_rule_invalid"),
        ({"categories": {"shop": "north"}}, "source_rule_invalid"),
        ({"patterns": {"shop": "("}}, "source_rule_invalid"),
        ({"patterns": {"shop": "(?=n)"}}, "source_rule_invalid"),
        ({"rules": {"spent too much": pl.col("shop") < 5}}, "source_rule_invalid"),
        ({"rules": {"spent too much": pl.col("spent")}}, "source_rule_invalid"),
        ({"rules": {"spent too much": pl.col("spent").mean() < 5}}, "source_rule_invalid"),
        ({"stale": "refused"}, "source_stale_action"),
    ],
)
def test_source_with_invalid_rule_is_refused(changes: dict, code: str) -> None:
    with raises(ProjectError, f"project.{code}", source="visits"):
        source(**changes)


def test_check_rows_with_rule_that_fails_is_refused() -> None:
    strict = pl.col("shop").cast(pl.Int64) > 0
    with raises(DataError, "data.rule_failed", rule="no number"):
        check_rows(source(rules={"no number": strict}), rows(("a", "x", 1.0, NOON, LATER)))


def test_check_rows_matches_each_alternative_of_a_pattern_from_the_beginning() -> None:
    checked = check_rows(
        source(patterns={"shop": "n|s"}),
        rows(*((str(i), shop, 1.0, NOON, LATER) for i, shop in enumerate(("ns", "as")))),
    )
    assert checked.get_column(REASON).to_list() == [None, "shop does not match n|s"]


def examples(**changes: str) -> Examples:
    return Examples(**{"source": "visits", "id": "id", "label": pl.col("spent"), "label_known_at": "known", **changes})


def feature_set(**changes: object) -> FeatureSet:
    declared = {
        "name": "set",
        "request": (*category("shop"), *timestamp("at")),
        "as_of": derive("as_of", pl.col("at"), "timestamp"),
        "views": (spending(),),
    }
    return FeatureSet(**{**declared, **changes})


@pytest.mark.parametrize(
    ("features", "about", "code", "fields"),
    [
        (feature_set(views=(spending(source="shops"),)), examples(), "unknown_source", {"source": "shops"}),
        (
            feature_set(views=(spending(aggregates=rolling("id", timedelta(hours=1), "ids")),)),
            examples(),
            "column_kind",
            {"view": "spending", "column": "id"},
        ),
        (
            feature_set(views=(spending(aggregates=(), latest=(Latest(column="shop", name="last"),)),)),
            examples(),
            "column_kind",
            {"view": "spending", "column": "shop"},
        ),
        (
            feature_set(views=(spending(known_at="spent"),)),
            examples(),
            "column_kind",
            {"view": "spending", "column": "spent"},
        ),
        (
            feature_set(views=(spending(ties="shop"),)),
            examples(),
            "column_kind",
            {"view": "spending", "column": "shop"},
        ),
        (
            feature_set(request=(*category("spent"), *timestamp("at")), views=()),
            examples(),
            "column_kind",
            {"source": "visits", "column": "spent", "kind": "number"},
        ),
        (feature_set(), examples(label_known_at="spent"), "column_kind", {"column": "spent", "kind": "number"}),
        (feature_set(), examples(event_time="then"), "unknown_column", {"columns": ["then"]}),
        (feature_set(as_of=None), examples(), "examples_without_time", {"source": "visits"}),
    ],
)
def test_require_columns_of_mismatched_features_is_refused(
    features: FeatureSet, about: Examples, code: str, fields: dict
) -> None:
    with raises(ProjectError, f"project.{code}", **fields):
        require_columns(features, about, (source(),))


def test_require_columns_accepts_columns_read_as_text_and_derived_ones() -> None:
    hour = timedelta(hours=1)
    texts = spending(aggregates=rolling("spent", hour, "amounts", ops=("distinct",), kind="category"))
    derived = spending(
        name="derived", derived=(derive("n", pl.col("id").str.len_bytes()),), aggregates=rolling("n", hour, "n")
    )
    require_columns(feature_set(views=(texts, derived)), examples(), (source(),))
    require_columns(feature_set(as_of=None), examples(event_time="at"), (source(),))


def test_require_columns_of_a_split_by_an_undeclared_group_is_refused() -> None:
    require_columns(feature_set(), examples(), (source(),), group=("shop", "at"))
    with raises(ProjectError, "project.unknown_column", source="visits", columns=["customer"]):
        require_columns(feature_set(), examples(), (source(),), group=("shop", "customer"))
