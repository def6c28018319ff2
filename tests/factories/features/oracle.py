"""What a feature view gives, by SQL on DuckDB: every row against every event, nothing clever.

DuckDB selects and adds up exact integers; the last step to float64 is Python's, whose int to float and division are
rounded correctly.
"""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime, timedelta

import duckdb
import polars as pl

from features.definitions import Aggregate, FeatureView
from features.types import AS_OF

Cell = float | str | datetime | None
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def expected(view: FeatureView, events: pl.DataFrame, rows: pl.DataFrame) -> list[dict[str, Cell]]:
    """The view's features for each row, in the order of the rows."""
    connection = duckdb.connect()
    connection.register("source", events.with_row_index("place").to_arrow())
    connection.register("request", rows.with_row_index("row").to_arrow())
    connection.execute(f"CREATE TABLE known AS {_known(view)}")
    cursor = connection.execute(_query(view))
    names = [column[0] for column in cursor.description]
    return [_finished(view, dict(zip(names, values, strict=True))) for values in cursor.fetchall()]


def bits(cells: list[dict[str, Cell]]) -> list[dict[str, object]]:
    """Cells in a form in which 0.0 and -0.0 differ, as do all other bits."""
    return [{k: struct.pack("<d", v) if isinstance(v, float) else v for k, v in row.items()} for row in cells]


def _known(view: FeatureView) -> str:
    keys = ", ".join(f"{key}::VARCHAR AS {key}" for key in view.entity.keys)
    event = _us(view.event_time)
    at = _us(view.known_at) if view.known_at else f"{event} + {view.delay_us}"
    tie = {"": "0", "sequence": "sequence", "revised": _us("revised")}[view.ties]
    return f"""
        SELECT place, {keys}, x, c, {event} AS event, coalesce({tie}, -1e300) AS tie,
            CASE WHEN isfinite(x) THEN CASE WHEN x = 0 THEN 0.0::DOUBLE ELSE x END END AS finite,
            CASE WHEN {at} >= {event} THEN {at} ELSE {event} END AS since
        FROM source WHERE {at} IS NOT NULL AND {event} IS NOT NULL"""


def _us(column: str) -> str:
    return f"epoch_us({column}::TIMESTAMPTZ)"


def _query(view: FeatureView) -> str:
    keys = " AND ".join(f"known.{key} = request.{key}" for key in view.entity.keys)
    usable = " AND ".join(f"request.{column} IS NOT NULL" for column in (*view.entity.keys, AS_OF))
    now = _us(f"request.{AS_OF}")
    counts = f"since {'<' if view.strict else '<='} {now}"
    aggregates = [f"{sql} AS {name}" for a, i in _numbered(view) for name, sql in _exact(view, a, f"a{i}", now).items()]
    order = "struct_pack(event := event, since := since, tie := tie, place := place)"
    latest = f"arg_max(struct_pack(x := x, c := c, event := event), {order}) FILTER (WHERE since IS NOT NULL)"
    return f"""
        SELECT request.row, {usable} AS usable, {now} AS now, {", ".join([*aggregates, f"{latest} AS newest"])}
        FROM request LEFT JOIN known ON {keys} AND {counts}
        GROUP BY request.row, usable, now ORDER BY request.row"""


def _numbered(view: FeatureView) -> list[tuple[Aggregate, int]]:
    return [(aggregate, i) for i, aggregate in enumerate(view.aggregates)]


def _exact(view: FeatureView, aggregate: Aggregate, name: str, now: str) -> dict[str, str]:
    """The exact parts of an aggregate, each a SQL expression."""
    within = f"FILTER (WHERE since {'>=' if view.strict else '>'} {now} - {aggregate.window_us})"
    value = "c" if aggregate.kind == "category" else "finite"
    if aggregate.op == "distinct":
        return {name: f"count(DISTINCT {value}) {within}"}
    if aggregate.op in ("min", "max"):
        return {name: f"{aggregate.op}({value}) {within}"}
    parts = {f"{name}_n": f"count({value}) {within}"}
    if aggregate.op != "count":
        unit = f"round_even(finite / {aggregate.resolution!r}::DOUBLE, 0)::BIGINT::HUGEINT"
        parts[f"{name}_s"] = f"coalesce(sum({unit}) {within}, 0)"
        parts[f"{name}_q"] = f"coalesce(sum({unit} * {unit}) {within}, 0)" if aggregate.op == "std" else "0"
    return parts


def _finished(view: FeatureView, row: dict) -> dict[str, Cell]:
    if not row["usable"]:
        return dict.fromkeys((column.name for column in view.columns), None)
    values: dict[str, Cell] = {a.name: _value(a, row, f"a{i}") for a, i in _numbered(view)}
    newest = row["newest"]
    if newest and view.ttl_us is not None:
        past = row["now"] - newest["event"]
        if past > view.ttl_us or (past == view.ttl_us and not view.strict):
            newest = None
    for latest in view.latest:
        value = newest["event" if latest.kind == "timestamp" else latest.column] if newest else None
        values[latest.name] = (
            _EPOCH + timedelta(microseconds=value) if latest.kind == "timestamp" and newest else _plain(value)
        )
    return values


def _plain(value: Cell) -> Cell:
    """NaN is missing, and there is one zero."""
    if isinstance(value, float):
        return None if math.isnan(value) else value + 0.0
    return value


def _value(aggregate: Aggregate, row: dict, name: str) -> float | None:
    if aggregate.op == "distinct":
        return float(row[name])
    if aggregate.op in ("min", "max"):
        return row[name]
    n = row[f"{name}_n"]
    if aggregate.op == "count":
        return float(n)
    total = int(row[f"{name}_s"])
    if aggregate.op == "sum":
        return float(total) * aggregate.resolution
    if aggregate.op == "mean":
        return float(total) * aggregate.resolution / float(n) if n else None
    spread = n * int(row[f"{name}_q"]) - total * total
    return math.sqrt(float(spread) / float(n * (n - 1))) * aggregate.resolution if n > 1 else None
