"""Expected features of a sample of rows, by DuckDB over all events, and the number of rows that differ from them."""

from __future__ import annotations

import duckdb
import polars as pl

from benchmarks.features.tables import Case, Window

SAMPLE = 1_000
ROW = "row"
_RELATIVE, _ABSOLUTE = 1e-6, 2.0**-17
"""Sums of floats in another order are no errors, nor is rounding to half of rayloop's resolution."""


def expected(case: Case, count: int | None = None) -> pl.DataFrame:
    """``row`` and the features of a sample of all rows, or of those that a peer is asked for that gets ``count``."""
    rows = pl.read_parquet(case.row_file).with_row_index(ROW).cast({ROW: pl.Int64})
    asked = _drawn(_drawn(rows, count or case.rows), SAMPLE)
    made = asked.select(ROW)
    for window in case.windows:
        made = made.join(_window(case, window, asked), on=ROW, how="left", maintain_order="left")
    return made


def _drawn(rows: pl.DataFrame, count: int) -> pl.DataFrame:
    """Evenly, as peers/feast/join.py does."""
    return rows.gather_every(max(1, rows.height // count)).head(count)


def _window(case: Case, window: Window, asked: pl.DataFrame) -> pl.DataFrame:
    connection = duckdb.connect()
    connection.register("asked", asked.to_arrow())
    keys = " AND ".join(f"e.{key} = asked.{key}" for key in window.keys)
    known = f"epoch_us(e.{window.known_at}::TIMESTAMPTZ)"
    now = "epoch_us(as_of::TIMESTAMPTZ)"
    within = f"{known} <= {now} AND {known} > {now} - {window.hours * 3_600_000_000}"
    found = connection.sql(f"""
        SELECT {ROW}, avg(e.{window.column}) AS {window.name}_mean,
               count(e.{window.column})::DOUBLE AS {window.name}_count
        FROM asked LEFT JOIN read_parquet('{case.folder}/events/*.parquet') e ON {keys} AND {within} GROUP BY {ROW}""")
    return pl.DataFrame(found.to_arrow_table())


def wrong(case: Case, truth: pl.DataFrame, made: pl.DataFrame) -> tuple[int, int]:
    """Rows of the truth that are absent from ``made`` or differ in some feature; and how many were compared.

    ``made`` has ``row`` and the features; rows that it was not asked for are left out beforehand.
    """
    pair = truth.join(made.select(ROW, *case.columns), on=ROW, how="left", suffix="_made", maintain_order="left")
    same = [_same(pl.col(name), pl.col(f"{name}_made")) for name in case.columns]
    return pair.height - int(pair.select(pl.all_horizontal(same).sum()).item()), pair.height


def _same(a: pl.Expr, b: pl.Expr) -> pl.Expr:
    near = (a - b).abs() <= _RELATIVE * a.abs() + _ABSOLUTE
    return (a.is_null() & b.is_null()) | near.fill_null(False)
