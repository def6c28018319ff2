"""The point-in-time join is the DuckDB oracle, bit for bit; and the future does not leak into it."""

from __future__ import annotations

from datetime import timedelta
from unittest.mock import patch

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.definitions import Entity, FeatureView, Latest
from features.offline import entity_timeline, point_in_time
from features.types import AS_OF, INSTANT
from tests.factories.effort import examples
from tests.factories.features.join_cases import Case, cases, since
from tests.factories.features.oracle import bits, expected

TOGETHER = 10


def check(case: Case) -> None:
    features = point_in_time.join(*case)
    assert features.columns == [column.name for column in case.view.columns]
    assert bits(features.to_dicts()) == bits(expected(*case))


@given(cases(TOGETHER))
@settings(max_examples=examples(220), suppress_health_check=list(HealthCheck))
def test_join_equals_oracle_bit_for_bit(case: Case) -> None:
    check(case)


@given(cases(1))
@settings(max_examples=examples(200))
def test_join_of_few_events_and_rows_equals_oracle(case: Case) -> None:
    check(case)


@given(cases(3))
@settings(max_examples=examples(100))
def test_join_without_merged_timeline_equals_oracle(case: Case) -> None:
    with patch.object(entity_timeline, "MAX_BITS", 30):
        check(case)


@given(cases(1), st.integers(0, 2**32 - 1))
@settings(max_examples=examples(100))
def test_join_ignores_events_known_after_a_row(case: Case, seed: int) -> None:
    view, events, rows = case
    features = point_in_time.join(*case)
    for place, at in enumerate(rows.get_column(AS_OF).dt.epoch("us")):
        row = rows.slice(place, 1)
        for history in (shuffled(events, later(view, at), seed), events.filter(~later(view, at))):
            assert bits(point_in_time.join(view, history, row).to_dicts()) == bits(features.slice(place, 1).to_dicts())


def later(view: FeatureView, at: int | None) -> pl.Expr:
    """Whether an event is not known at ``at``, microseconds since the epoch; for a row without time none is."""
    if at is None:
        return pl.lit(True)
    counts = since(view) < at if view.strict else since(view) <= at
    return ~counts.fill_null(False)


def shuffled(events: pl.DataFrame, which: pl.Expr, seed: int) -> pl.DataFrame:
    """The events, those that ``which`` selects with the cells of their columns exchanged among them; the times stay."""
    chosen = events.with_row_index("place").filter(which)
    cells = [pl.col(name).shuffle(seed + i) for i, name in enumerate(("a", "b", "x", "c", "sequence", "revised"))]
    return (
        events.with_row_index("place").update(chosen.with_columns(cells), on="place", include_nulls=True).drop("place")
    )


def test_leak_test_finds_a_join_that_looks_ahead() -> None:
    """A join that looks a minute ahead is found out."""
    at = pl.Series([0, 30_000_000], dtype=pl.Int64).cast(INSTANT)
    events = pl.DataFrame({"a": ["p", "p"], "happened": at, "x": [1.0, 2.0]})
    view = FeatureView(
        name="view", entity=Entity(name="a", keys=("a",)), source="s", event_time="happened",
        latest=(Latest(column="x", name="x"),),
    )  # fmt: skip
    row = pl.DataFrame({"a": ["p"], AS_OF: at.head(1)})
    ahead = row.with_columns(pl.col(AS_OF) + timedelta(minutes=1))
    assert point_in_time.join(view, events, row).rows() == [(1.0,)]
    assert (
        point_in_time.join(view, events.filter(~later(view, 0)), ahead).rows()
        != point_in_time.join(view, events, ahead).rows()
    )
