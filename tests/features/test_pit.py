"""The point-in-time join against a slow, obvious oracle; the online state against the join."""

from __future__ import annotations

import math
from fractions import Fraction

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import DataError
from features import pit
from features.definitions import Aggregate, FeatureView
from features.materialize import materialize, state_key, state_prefix
from features.online import LmdbStore
from features.pit import AS_OF
from features.state import LATENESS_US, Layout
from tests.features.strategies import VIEW, histories, label_rows

CASES = 400


def oracle(view: FeatureView, events: pl.DataFrame, rows: pl.DataFrame) -> list[dict]:
    """One row at a time, with exact fractions."""
    return [_oracle_row(view, events.to_dicts(), row) for row in rows.to_dicts()]


def _oracle_row(view: FeatureView, events: list[dict], row: dict) -> dict:
    keys, at = view.entity.keys, row[AS_OF]
    if at is None or any(row[key] is None for key in keys):
        return dict.fromkeys(column.name for column in view.columns)
    mine = [e for e in events if all(e[key] == row[key] for key in keys) and e[view.known_at] <= at]
    values = {a.name: _oracle_aggregate(a, view, mine, at) for a in view.aggregates}
    newest = max(enumerate(mine), key=lambda ie: (ie[1][view.event_time], ie[1][view.known_at], ie[0]), default=None)
    expired = newest is None or (view.ttl is not None and newest[1][view.event_time] <= at - view.ttl)
    for feature in view.latest:
        value = None if expired else newest[1][feature.column]
        values[feature.name] = None if isinstance(value, float) and math.isnan(value) else value
    return values


def _oracle_aggregate(aggregate: Aggregate, view: FeatureView, mine: list[dict], at) -> float | None:
    cells = [e[aggregate.column] for e in mine if e[view.known_at] > at - aggregate.window]
    kept = [round(Fraction(x / aggregate.resolution)) for x in cells if x is not None and math.isfinite(x)]
    total = float(sum(kept)) * aggregate.resolution
    return {"count": float(len(kept)), "sum": total, "mean": total / len(kept) if kept else None}[aggregate.op]


@given(histories, label_rows)
@settings(max_examples=CASES, deadline=None)
def test_join_is_the_oracle_bit_for_bit(events: pl.DataFrame, rows: pl.DataFrame) -> None:
    assert pit.join(VIEW, events, rows).to_dicts() == oracle(VIEW, events, rows)


@given(histories, label_rows)
@settings(max_examples=CASES, deadline=None)
def test_online_state_gives_the_bits_of_the_join(events: pl.DataFrame, rows: pl.DataFrame) -> None:
    layout = Layout(VIEW)
    joined = pit.join(VIEW, events, rows).rows()
    ordered = events.drop_nulls(["a", "b"]).sort("known", maintain_order=True)
    states = {
        k: layout.unpack(layout.pack(layout.events(g))) for k, g in ordered.partition_by("a", "b", as_dict=True).items()
    }
    for (a, b, at), expected in zip(rows.rows(), joined, strict=True):
        if a is not None and b is not None and at is not None:
            assert tuple(layout.read(states.get((a, b)), round(at.timestamp() * 1e6))) == expected


@given(histories, label_rows, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_what_becomes_known_later_changes_nothing(events: pl.DataFrame, rows: pl.DataFrame, random) -> None:
    known = [at for at in rows.get_column(AS_OF) if at is not None]
    now = max(known, default=None)
    future = events if now is None else events.filter(pl.col("known") > now)
    shuffled = future.with_columns(pl.Series("x", [random.uniform(-9, 9) for _ in range(future.height)], pl.Float64))
    past = events.filter(pl.col("known") <= now) if now is not None else events.clear()
    assert pit.join(VIEW, pl.concat([past, shuffled]), rows).equals(pit.join(VIEW, past, rows))


@given(histories, st.lists(st.integers(0, 46), max_size=4).map(sorted))
@settings(max_examples=100, deadline=None)
def test_materialize_in_any_chunks_and_twice(tmp_path_factory, events: pl.DataFrame, stops: list[int]) -> None:
    once, chunked = (LmdbStore(tmp_path_factory.mktemp("store")) for _ in range(2))
    start = round(events.get_column("happened").min().timestamp() * 1e6) if events.height else 0
    end = start + 60 * 60 * 1_000_000
    materialize(once, VIEW, events, end)
    for minute in stops:
        materialize(chunked, VIEW, events, start + minute * 60_000_000)
    materialize(chunked, VIEW, events, end)
    assert materialize(chunked, VIEW, events, end) == 0
    prefix = state_prefix(VIEW)
    assert once.keys(prefix) == chunked.keys(prefix)
    keys = once.keys(prefix)
    assert once.get_many(keys) == chunked.get_many(keys)


def test_state_forgets_only_what_no_exact_lookup_needs(hourly_events: pl.DataFrame) -> None:
    layout = Layout(VIEW)
    state = layout.empty
    for rows in hourly_events.iter_slices(5):
        state = layout.extend(state, layout.events(rows))
    newest = int(state.matrix[0, -1])
    assert state.matrix.shape[1] < hourly_events.height / 2
    asked = hourly_events.tail(20).select("a", "b", pl.col("known").alias(AS_OF))
    expected = pit.join(VIEW, hourly_events, asked).rows()
    for at, values in zip(asked.get_column(AS_OF).dt.epoch("us"), expected, strict=True):
        assert tuple(layout.read(state, at)) == values
    with pytest.raises(DataError, match="offline join"):
        layout.read(state, newest - LATENESS_US - VIEW.max_window_us - 1)


def test_a_value_too_large_for_its_resolution_is_refused(hourly_events: pl.DataFrame) -> None:
    huge = hourly_events.with_columns(pl.lit(1e13).alias("x"))
    with pytest.raises(DataError, match="coarser resolution"):
        pit.prepare(VIEW, huge)


def test_keys_do_not_run_together() -> None:
    assert state_key(b"v/", ("a", "bc")) != state_key(b"v/", ("ab", "c"))
