"""Expected features of a sample of rows, by DuckDB over all events, and the number of rows that differ from them."""

from __future__ import annotations

import duckdb
import polars as pl

from benchmarks.features.tables import JoinCase, Window

SAMPLE = 1_000
ROW = "row"
_RELATIVE, _ABSOLUTE = 1e-6, 2.0**-17
"""Tolerances: sums in another order, and rounding to half of rayloop's resolution."""


def expected(case: JoinCase, count: int | None = None) -> pl.DataFrame:
    """Return ``row`` and the true features of a sample of the rows that a peer which joins ``count`` rows gets."""
    rows = pl.read_parquet(case.row_file).with_row_index(ROW).cast({ROW: pl.Int64})
    sample = _sample_rows(_sample_rows(rows, count or case.rows), SAMPLE)
    truth = sample.select(ROW)
    for window in case.windows:
        truth = truth.join(_window(case, window, sample), on=ROW, how="left", maintain_order="left")
    return truth


def _sample_rows(rows: pl.DataFrame, count: int) -> pl.DataFrame:
    """Sample evenly, as peers/feast/join.py does."""
    return rows.gather_every(max(1, rows.height // count)).head(count)


def _window(case: JoinCase, window: Window, sample: pl.DataFrame) -> pl.DataFrame:
    connection = duckdb.connect()
    connection.register("sample_rows", sample.to_arrow())
    keys = " AND ".join(f"e.{key} = sample_rows.{key}" for key in window.keys)
    known_us = f"epoch_us(e.{window.known_at}::TIMESTAMPTZ)"
    now = "epoch_us(as_of::TIMESTAMPTZ)"
    within = f"{known_us} <= {now} AND {known_us} > {now} - {window.hours * 3_600_000_000}"
    features = connection.sql(f"""
        SELECT {ROW}, avg(e.{window.column}) AS {window.name}_mean,
               count(e.{window.column})::DOUBLE AS {window.name}_count
        FROM sample_rows LEFT JOIN read_parquet('{case.folder}/events/*.parquet') e ON {keys} AND {within}
        GROUP BY {ROW}""")
    return pl.DataFrame(features.to_arrow_table())


def count_errors(case: JoinCase, truth: pl.DataFrame, actual: pl.DataFrame) -> tuple[int, int]:
    """Return the number of rows that are missing from ``actual`` or differ in a feature, and the number compared.

    ``actual`` has ``row`` and the features. ``truth`` has only rows that were requested.
    """
    pair = truth.join(actual.select(ROW, *case.columns), on=ROW, how="left", suffix="_actual", maintain_order="left")
    same = [_same(pl.col(name), pl.col(f"{name}_actual")) for name in case.columns]
    return pair.height - int(pair.select(pl.all_horizontal(same).sum()).item()), pair.height


def _same(a: pl.Expr, b: pl.Expr) -> pl.Expr:
    near = (a - b).abs() <= _RELATIVE * a.abs() + _ABSOLUTE
    return (a.is_null() & b.is_null()) | near.fill_null(False)
