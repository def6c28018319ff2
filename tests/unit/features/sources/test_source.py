"""Landing's pure check: every bad row gets its reason, none is lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import DataError, ProjectError
from features.builders import category, derive, number, rolling, timestamp
from features.definitions import FeatureSet, Latest
from features.sources.source import Examples, Source, require_columns
from features.sources.validation import REASON, check_rows, exclude_known, quarantine_rows, validate_rows
from tests.unit.features.test_definitions import view as spending

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
LATER = datetime(2024, 1, 1, 13, tzinfo=UTC)


def source(**changes: object) -> Source:
    declared = {
        "name": "visits",
        "key": ("id",),
        "columns": (*category("id", "shop"), *number("spent"), *timestamp("at", "known")),
        "event_time": "at",
        "known_at": "known",
        "required": ("shop",),
        "ranges": {"spent": (0, 100)},
        "read": lambda: None,
    }
    return Source(**{**declared, **changes})


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
def test_each_rule_gives_its_reason(row: tuple, reason: str | None) -> None:
    assert check_rows(source(), rows(row)).get_column(REASON).to_list() == [reason]


def test_of_repeats_the_first_known_is_kept() -> None:
    judged = check_rows(source(), rows(("a", "late", 1.0, NOON, LATER), ("a", "early", 1.0, NOON, NOON)))
    kept = judged.filter(pl.col(REASON).is_null())
    assert kept.get_column("shop").to_list() == ["early"]
    assert judged.get_column(REASON).drop_nulls().to_list() == ["repeats the key id"]


def test_a_bad_row_does_not_make_a_good_one_a_repeat() -> None:
    judged = check_rows(source(), rows(("a", None, 1.0, NOON, NOON), ("a", "x", 1.0, NOON, LATER)))
    assert judged.get_column(REASON).null_count() == 1


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from(["x", None]), st.floats(-10, 200)), max_size=20
    )
)
def test_no_row_vanishes(cells: list[tuple]) -> None:
    judged = check_rows(source(), rows(*[(i, s, v, NOON, LATER) for i, s, v in cells]))
    assert judged.height == len(cells)
    bad = judged.drop_nulls(REASON)
    assert quarantine_rows(source(), bad).null_count().sum_horizontal().item() == 0
    assert bad.height == len(cells) - len({i for i, s, v in cells if i and s and 0 <= v <= 100})


@given(st.lists(st.tuples(st.sampled_from(["1", "2", None]), st.sampled_from([1, 2.0, None])), max_size=12))
def test_rows_with_a_known_key_are_left_out_and_the_others_stay_as_they_are(cells: list[tuple]) -> None:
    keyed = source(key=("id", "spent"))
    found = validate_rows(keyed, rows(*((a, "x", b, NOON, LATER) for a, b in cells)))
    known = pl.DataFrame({"id": ["1", None], "spent": [1.0, 2.0]})
    left = exclude_known(keyed, found, known)
    expected = [cell for cell in found.rows() if (cell[0], cell[2]) not in set(known.rows())]
    assert left.rows() == expected
    assert left.schema == found.schema


def test_a_missing_column_stops_the_landing() -> None:
    with pytest.raises(DataError, match="lacks column spent"):
        check_rows(source(), rows(("a", "x", 1.0, NOON, LATER)).drop("spent"))


def test_a_source_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ProjectError, match="'nowhere'"):
        source(required=("nowhere",))
    with pytest.raises(ProjectError, match="must be a timestamp"):
        source(event_time="spent")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": (*category("id", "shop", "shop"), *number("spent"), *timestamp("at", "known"))}, "shop twice"),
        ({"key": ()}, "has no key"),
        ({"ranges": {"spent": (100, 0)}}, "nothing in it"),
        ({"categories": {"shop": "north"}}, "one text"),
        ({"patterns": {"shop": "("}}, "cannot be read"),
        ({"patterns": {"shop": "(?=n)"}}, "look-ahead"),
        ({"rules": {"spent too much": pl.col("shop") < 5}}, "'spent too much' fails: cannot compare string"),
        ({"rules": {"spent too much": pl.col("spent")}}, "not true or false"),
        ({"rules": {"spent too much": pl.col("spent").mean() < 5}}, "not true or false of one row"),
        ({"stale": "refused"}, "'warn' or 'refuse'"),
    ],
)
def test_a_rule_that_cannot_be_kept_is_refused_where_it_is_declared(changes: dict, message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        source(**changes)


def test_a_rule_that_fails_on_rows_does_not_pass_them() -> None:
    strict = pl.col("shop").cast(pl.Int64) > 0
    with pytest.raises(DataError, match="could not be checked, 'no number'"):
        check_rows(source(rules={"no number": strict}), rows(("a", "x", 1.0, NOON, LATER)))


def test_a_pattern_of_alternatives_holds_for_each_of_them_from_the_beginning() -> None:
    judged = check_rows(
        source(patterns={"shop": "n|s"}),
        rows(*((str(i), shop, 1.0, NOON, LATER) for i, shop in enumerate(("ns", "as")))),
    )
    assert judged.get_column(REASON).to_list() == [None, "shop does not match n|s"]


def examples(**changes: str) -> Examples:
    return Examples(**{"source": "visits", "id": "id", "label": pl.col("spent"), "label_known_at": "known", **changes})


def asked(**changes: object) -> FeatureSet:
    declared = {
        "name": "set",
        "request": (*category("shop"), *timestamp("at")),
        "as_of": derive("as_of", pl.col("at"), "timestamp"),
        "views": (spending(),),
    }
    return FeatureSet(**{**declared, **changes})


@pytest.mark.parametrize(
    ("features", "about", "message"),
    [
        (asked(views=(spending(source="shops"),)), examples(), "no source is called 'shops'"),
        (
            asked(views=(spending(aggregates=rolling("id", timedelta(hours=1), "ids")),)),
            examples(),
            "takes 'id' for a number",
        ),
        (
            asked(views=(spending(aggregates=(), latest=(Latest(column="shop", name="last"),)),)),
            examples(),
            "takes 'shop' for a number",
        ),
        (asked(views=(spending(known_at="spent"),)), examples(), "takes 'spent' for a timestamp"),
        (asked(views=(spending(ties="shop"),)), examples(), "takes 'shop' for a number or timestamp"),
        (
            asked(request=(*category("spent"), *timestamp("at")), views=()),
            examples(),
            "'spent' is a category in the request and a number in source 'visits'",
        ),
        (asked(), examples(label_known_at="spent"), "'spent' is a number of source 'visits', and should be a time"),
        (asked(), examples(event_time="then"), "declares no column then"),
        (asked(as_of=None), examples(), "nothing dates the examples"),
    ],
)
def test_features_that_do_not_go_with_their_sources_are_refused(
    features: FeatureSet, about: Examples, message: str
) -> None:
    with pytest.raises(ProjectError, match=message):
        require_columns(features, about, (source(),))


def test_a_view_may_read_a_column_as_text_and_what_it_derives_as_anything() -> None:
    hour = timedelta(hours=1)
    texts = spending(aggregates=rolling("spent", hour, "amounts", ops=("distinct",), kind="category"))
    made = spending(
        name="made", derived=(derive("n", pl.col("id").str.len_bytes()),), aggregates=rolling("n", hour, "n")
    )
    require_columns(asked(views=(texts, made)), examples(), (source(),))
    require_columns(asked(as_of=None), examples(event_time="at"), (source(),))
