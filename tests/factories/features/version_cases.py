"""Hypothesis strategies of rows with versions, and the naive join: each row by itself, over the versions known by then.

The naive join takes, for a row at t, the newest version of each source row that is known at t, and joins these few rows
as if they were the whole source.
"""

from __future__ import annotations

from typing import NamedTuple

import polars as pl
from hypothesis import strategies as st

from features.definitions import FeatureView
from features.offline.point_in_time import join
from features.types import AS_OF, INSTANT, KNOWN_FROM, KNOWN_UNTIL
from tests.factories.features.join_cases import MINUTE_US, Case, cases

KEY = "__key"


class VersionedCase(NamedTuple):
    view: FeatureView
    versions: pl.DataFrame
    """Rows with ``KEY``, KNOWN_FROM and KNOWN_UNTIL, in the order of the table."""
    rows: pl.DataFrame


def with_known_until(versions: pl.DataFrame) -> pl.DataFrame:
    """Add from when each version is replaced; the naive way."""
    ordered = versions.with_row_index("__place").sort(KEY, KNOWN_FROM, nulls_last=False)
    following = pl.col(KNOWN_FROM).shift(-1).over(KEY).alias(KNOWN_UNTIL)
    return ordered.with_columns(following).sort("__place").drop("__place")


@st.composite
def versioned_cases(draw: st.DrawFn, histories: int) -> VersionedCase:
    """Some events of a case are versions of an earlier one, known from minutes around the rows' times."""
    case: Case = draw(cases(histories))
    count = case.events.height
    keys = [draw(st.integers(0, place)) if draw(st.booleans()) else place for place in range(count)]
    start = _around(case)
    known, last = [], dict[int, int]()
    for key in keys:
        known.append(None if key not in last else start + last[key] * MINUTE_US)
        last[key] = last.get(key, draw(st.integers(-60, 60))) + draw(st.integers(1, 30))
    versions = case.events.with_columns(
        pl.Series(KEY, keys, pl.Int64), pl.Series(KNOWN_FROM, known, pl.Int64).cast(INSTANT)
    )
    return VersionedCase(case.view, with_known_until(versions), case.rows)


def _around(case: Case) -> int:
    times = [case.rows.get_column(AS_OF), case.events.get_column("happened")]
    present = [t for column in times for t in column.dt.epoch("us").to_list() if t is not None]
    return min(present) if present else 0


def naive_join(case: VersionedCase) -> pl.DataFrame:
    """Join each row with the newest version of each source row that is known at its time."""
    view, versions, rows = case
    results = []
    for place in range(rows.height):
        row = rows.slice(place, 1)
        at = row.get_column(AS_OF).dt.epoch("us").item()
        results.append(join(view, newest_at(view, versions, at), row))
    return pl.concat(results) if results else join(view, versions.drop(KEY, KNOWN_FROM, KNOWN_UNTIL), rows)


def newest_at(view: FeatureView, versions: pl.DataFrame, at: int | None) -> pl.DataFrame:
    """The newest version of each row that is known at an instant, microseconds since the epoch."""
    known: list[int] = []
    newest: dict[int, tuple[int, int]] = {}
    for place, (key, since) in enumerate(versions.select(KEY, pl.col(KNOWN_FROM).dt.epoch("us")).iter_rows()):
        if since is not None and (at is None or since > at - int(view.strict)):
            continue
        rank = -(2**62) if since is None else since
        if key not in newest or newest[key][0] < rank:
            newest[key] = (rank, place)
    known = sorted(place for _, place in newest.values())
    return versions[known].drop(KEY, KNOWN_FROM, KNOWN_UNTIL)
