"""Two snapshots of a table are compared by keys, rows and columns, whatever the order and the parts of the rows."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from features.inspection.table_comparison import ColumnFigures, TableDifference, compare_tables

ORDERS = pl.DataFrame(
    {
        "order": ["a", "b", "c"],
        "price": [1.0, 2.0, None],
        "at": [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3)],
    }
)
ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=20)


def compare(before: pl.DataFrame, after: pl.DataFrame, *key: str, part: int = 2) -> TableDifference:
    sides = ((frame.columns, list(frame.iter_slices(part))) for frame in (before, after))
    return compare_tables(*sides, key)


def table(rows: list[tuple[int, int]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"key": pl.Int64, "value": pl.Int64}, orient="row")


def test_keys_are_added_removed_and_changed() -> None:
    after = pl.DataFrame({"order": ["c", "b", "d", "e"], "price": [5.0, 2.0, 3.0, 4.0], "at": [ORDERS["at"][1]] * 4})
    difference = compare(ORDERS, after.with_columns(at=pl.Series([ORDERS["at"][i] for i in (2, 1, 0, 0)])), "order")
    assert (difference.rows, difference.added, difference.removed, difference.changed) == ((3, 4), 2, 1, 1)
    (price,) = [column for column in difference.columns if column.column == "price"]
    assert price.before == ColumnFigures(1, 1.5, "1.0", "2.0")
    assert price.after == ColumnFigures(0, 3.5, "2.0", "5.0")


def test_column_of_one_snapshot_is_no_change_of_its_rows() -> None:
    difference = compare(ORDERS, ORDERS.with_columns(pl.lit("x").alias("note")), "order")
    assert (difference.added, difference.removed, difference.changed) == (0, 0, 0)
    assert [(c.column, c.before) for c in difference.columns] == [("note", None)]
    assert not difference.is_empty


def test_further_version_of_a_row_is_a_change_of_its_key() -> None:
    correction = ORDERS.head(1).with_columns(pl.lit(9.0).alias("price"))
    difference = compare(ORDERS, pl.concat([ORDERS, correction]), "order")
    assert (difference.rows, difference.added, difference.removed, difference.changed) == ((3, 4), 0, 0, 1)


def test_values_without_an_order_are_compared_as_rows() -> None:
    frame = pl.DataFrame({"pixels": [[1.0, 2.0], [3.0, 4.0]]})
    assert compare(frame, frame.reverse()).is_empty
    assert compare(frame, frame.head(1)).removed == 1


def test_empty_tables_have_no_difference() -> None:
    assert compare(table([]), table([]), "key").is_empty


@given(ROWS, ROWS, st.integers(1, 7))
def test_rows_without_a_key_are_counted_as_a_multiset(
    before: list[tuple[int, int]], after: list[tuple[int, int]], part: int
) -> None:
    difference = compare(table(before), table(after), part=part)
    added, removed = list(after), list(before)
    for row in before:
        if row in added:
            added.remove(row)
    for row in after:
        if row in removed:
            removed.remove(row)
    assert (difference.added, difference.removed) == (len(added), len(removed))
    assert difference.is_empty == (sorted(before) == sorted(after))
    back = compare(table(after), table(before))
    assert (back.added, back.removed, back.changed) == (difference.removed, difference.added, 0)
