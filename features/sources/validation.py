"""Checks on landing: what is wrong with each row of a source. Pure.

Types are cast here; the rules are a pandera schema (docs/decisions/0025). A row has one reason for each column, or rule,
that it breaks, joined by "; ".
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl

from cluster.errors import DataError
from features.definitions import Column
from features.sources.pseudonyms import PseudonymKey, protect_rows
from features.sources.source import POLARS_TYPES, Source

if TYPE_CHECKING:
    import pandera.polars as pandera

REASON = "__reason"
RAW = "__raw"
"""A bad row as it came, as JSON; null for a good one."""
REASON_SEPARATOR = "; "

_ROW = "__row"
_NULLS = "not_nullable"
# Times without an offset are taken as UTC, as in requests.
_TIME_FORMATS = (("%+", True), ("%Y-%m-%dT%H:%M:%S%.f", False), ("%Y-%m-%d %H:%M:%S%.f", False), ("%Y-%m-%d", False))


def check_rows(source: Source, rows: pl.DataFrame, names: PseudonymKey | None = None) -> pl.DataFrame:
    """``judged`` and ``once`` together, for rows that are all at hand."""
    return deduplicate(source, validate_rows(source, rows, names))


def validate_rows(source: Source, rows: pl.DataFrame, names: PseudonymKey | None = None) -> pl.DataFrame:
    """The stored columns in their types, personal data protected, with ``__reason`` and ``__raw`` (null: a good row).

    Every row alone: that a key repeats is found by ``once``. Raises DataError when a column is missing altogether, which
    is no matter of single rows.
    """
    missing = [name for name in source.column_names if name not in rows.columns]
    if missing:
        raise DataError(
            f"source {source.name!r} lacks column{'s' * (len(missing) > 1)} {', '.join(missing)}",
            f"it has {', '.join(rows.columns)}",
        )
    raw = rows.select(source.column_names)
    typed = raw.with_columns(_cast(column, raw.schema[column.name]) for column in source.columns)
    reasons = _reasons(source, raw, typed)
    found = typed.with_row_index(_ROW).join(reasons, on=_ROW, how="left", maintain_order="left")
    cells = _as_it_came(source, raw, found.get_column(REASON), names)
    return protect_rows(source.columns, found.drop(_ROW), names).with_columns(cells)


def deduplicate(source: Source, rows: pl.DataFrame) -> pl.DataFrame:
    """Judged rows, in known-at order, where all but the first known good one of each key have a reason.

    All rows of one key must be in ``rows``.
    """
    ordered = rows.sort(source.known_at, maintain_order=True)
    good = pl.col(REASON).is_null()
    repeated = good & ~pl.struct(*source.key, good.alias("good")).is_first_distinct()
    why = pl.lit(f"repeats the key {', '.join(source.key)}")
    marked = ordered.with_columns(pl.when(repeated).then(why).otherwise(REASON).alias(REASON))
    # What repeats was good till now: its stored columns are as it came.
    repeats = marked.get_column(REASON).is_not_null() & marked.get_column(RAW).is_null()
    cells = _json(marked.select(c.name for c in source.stored_columns), repeats)
    return marked.with_columns(pl.coalesce(RAW, cells).alias(RAW))


def exclude_known(source: Source, rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """The judged rows whose key is not among the ``known`` keys."""
    return rows.join(known, on=list(source.key), how="anti", nulls_equal=True, maintain_order="left")


def quarantine_rows(source: Source, bad: pl.DataFrame) -> pl.DataFrame:
    """Rows of the quarantine table: source, reason, and the row as JSON."""
    return bad.select(
        pl.lit(source.name).alias("source"), pl.col(REASON).alias("reason"), pl.col(RAW).alias("row")
    ).cast(pl.String)


def count_reasons(reasons: Iterable[str]) -> dict[str, int]:
    """How many rows each single reason was given to."""
    return dict(Counter(part for reason in reasons for part in reason.split(REASON_SEPARATOR)))


def staleness(source: Source, newest: datetime | None, now: datetime) -> str:
    """Why the source is too old, in a sentence; empty when it is not."""
    if source.fresh_within is None:
        return ""
    if newest is None:
        return f"source {source.name!r} has no rows, and must be fresh within {source.fresh_within}"
    if now - newest <= source.fresh_within:
        return ""
    return (
        f"source {source.name!r} is stale: its newest row was known at {newest:%Y-%m-%d %H:%M:%S} UTC,"
        f" {_rounded(now - newest)} ago; {source.fresh_within} is the limit"
    )


def _reasons(source: Source, raw: pl.DataFrame, typed: pl.DataFrame) -> pl.DataFrame:
    """Row number and reason of each bad row."""
    failures = pl.concat([_mistyped(source, raw, typed), _broken(source, typed)])
    # A cell that is mistyped has become null: that it is missing besides says nothing.
    single = failures.unique([_ROW, "column"], keep="first", maintain_order=True)
    return single.group_by(_ROW, maintain_order=True).agg(pl.col(REASON).str.join(REASON_SEPARATOR))


def _mistyped(source: Source, raw: pl.DataFrame, typed: pl.DataFrame) -> pl.DataFrame:
    found = []
    for column in source.columns:
        values = raw.get_column(column.name)
        given = values.is_not_null() & (values.is_not_nan() if values.dtype.is_float() else True)
        rows = (given & typed.get_column(column.name).is_null()).arg_true().cast(pl.UInt32)
        found.append(_failures(rows, column.name, f"{column.name} is not a {column.kind}"))
    return pl.concat(found)


def _broken(source: Source, typed: pl.DataFrame) -> pl.DataFrame:
    """What pandera finds: a failure a row, column and rule."""
    from pandera.config import ValidationDepth, config_context
    from pandera.errors import SchemaErrors

    nothing = _failures(pl.Series([], dtype=pl.UInt32), "", "")
    if typed.is_empty():
        return nothing
    try:
        # Whatever PANDERA_VALIDATION_ENABLED says where this runs.
        with config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA):
            _schema(source).validate(typed, lazy=True)
    except SchemaErrors as error:
        cases: pl.DataFrame = error.failure_cases
        _require_judged(source, cases)
        missing = pl.col("check") == _NULLS
        return cases.select(
            pl.col("index").cast(pl.UInt32).alias(_ROW),
            pl.coalesce("column", "check").alias("column"),
            pl.when(missing).then(pl.format("{} is missing", "column")).otherwise("check").alias(REASON),
        )
    return nothing


def _require_judged(source: Source, cases: pl.DataFrame) -> None:
    """Of a check that failed itself pandera gives no row: it has judged none of them."""
    failed = cases.filter(pl.col("index").is_null())
    if failed.height:
        # No more than the error's name: its text may quote a cell, of a personal column too.
        fault = str(failed["failure_case"][0]).partition("(")[0]
        raise DataError(
            f"source {source.name!r}: a rule could not be checked, {failed['check'][0]!r}: {fault}",
            "mend its expression",
        )


def _schema(source: Source) -> pandera.DataFrameSchema:
    """The source's rules; a check's ``error`` is the reason it gives."""
    import pandera.polars as pandera

    needed = {*source.key, source.event_time, source.known_at, *source.required}
    checks: dict[str, list[pandera.Check]] = {column.name: [] for column in source.columns}
    for name, (low, high) in source.ranges.items():
        checks[name].append(pandera.Check.in_range(low, high, error=f"{name} is outside {low:g} to {high:g}"))
    for name, values in source.categories.items():
        checks[name].append(pandera.Check.isin(values, error=f"{name} is none of {', '.join(values)}"))
    for name, pattern in source.patterns.items():
        checks[name].append(pandera.Check.str_matches(f"(?:{pattern})", error=f"{name} does not match {pattern}"))
    early = pl.col(source.known_at) >= pl.col(source.event_time)
    rules = {f"{source.known_at} is before {source.event_time}": early, **source.rules}
    return pandera.DataFrameSchema(
        {c.name: pandera.Column(checks=checks[c.name], nullable=c.name not in needed) for c in source.columns},
        checks=[pandera.Check(partial(_holds, rule), error=reason) for reason, rule in rules.items()],
    )


def _holds(rule: pl.Expr, data: Any) -> pl.LazyFrame:
    """Whether each row keeps a rule; one that cannot be told does."""
    rows: pl.LazyFrame = data.lazyframe
    return rows.select(rule.fill_null(True))


def _cast(column: Column, stored: pl.DataType) -> pl.Expr:
    value, target = pl.col(column.name), POLARS_TYPES[column.kind]
    if column.kind == "timestamp" and stored == pl.String:
        tried = [_moment(value, form, zoned) for form, zoned in _TIME_FORMATS]
        return pl.coalesce(tried).alias(column.name)
    if column.kind == "number":
        return value.cast(target, strict=False).fill_nan(None)
    return value.cast(target, strict=False)


def _moment(text: pl.Expr, form: str, zoned: bool) -> pl.Expr:
    if zoned:
        return text.str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False)
    return text.str.to_datetime(form, time_unit="us", strict=False, exact=True).dt.replace_time_zone("UTC")


def _as_it_came(source: Source, raw: pl.DataFrame, reasons: pl.Series, names: PseudonymKey | None) -> pl.Series:
    """Bad rows as JSON before their cells were cast, personal data protected."""
    bad = reasons.is_not_null()
    hashed = [column.name for column in source.columns if column.personal == "hash"]
    text = raw.with_columns(pl.col(name).cast(pl.String) for name in hashed)
    return _json(protect_rows(source.columns, text, names), bad)


def _json(rows: pl.DataFrame, wanted: pl.Series) -> pl.Series:
    """The wanted rows as JSON, null for the others."""
    cells = [json.dumps(row, default=str, sort_keys=True) for row in rows.filter(wanted).iter_rows(named=True)]
    return pl.Series(RAW, [None], dtype=pl.String).new_from_index(0, rows.height).scatter(wanted.arg_true(), cells)


def _rounded(age: timedelta) -> timedelta:
    return timedelta(seconds=round(age.total_seconds()))


def _failures(rows: pl.Series, column: str, reason: str) -> pl.DataFrame:
    return pl.DataFrame({_ROW: rows}).with_columns(pl.lit(column).alias("column"), pl.lit(reason).alias(REASON))
