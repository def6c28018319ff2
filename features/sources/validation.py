"""Validation of a source's rows during ingestion. Pure.

Types are cast here; the rules are a pandera schema (docs/decisions/0025). A row has one reason for each column or rule
that it violates, joined by "; ".
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
from features.sources.row_versions import EARLY, REPEATED, chain_versions
from features.sources.source import Source
from features.types import KNOWN_FROM, POLARS_TYPES

if TYPE_CHECKING:
    import pandera.polars as pandera

REASON = "__reason"
RAW = "__raw"
"""An invalid row as it was read, as JSON; null for a valid one."""
REASON_SEPARATOR = "; "

_ROW = "__row"
_NULLS = "not_nullable"
# Times without an offset are read as UTC, as in requests.
_TIME_FORMATS = ("%+", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d")


def check_rows(source: Source, rows: pl.DataFrame, key: PseudonymKey | None = None) -> pl.DataFrame:
    """Validate and deduplicate; all rows of a key must be in ``rows``."""
    return deduplicate(source, validate_rows(source, rows, key))


def validate_rows(source: Source, rows: pl.DataFrame, key: PseudonymKey | None = None) -> pl.DataFrame:
    """Check each row by itself; ``deduplicate`` finds repeated keys.

    Args:
        source: The rules.
        rows: Rows as they were read, with all declared columns.
        key: Needed when a column is hashed.

    Returns:
        The stored columns in their types, personal data protected, and the columns ``REASON`` and ``RAW``, which are
        null for valid rows.

    Raises:
        DataError: A column is missing, or a rule cannot be evaluated.
        SettingsError: A column must be hashed, and ``key`` is None.
    """
    source.require_columns(rows.columns)
    raw = rows.select(source.column_names)
    typed = cast_rows(source, raw)
    reasons = _reasons(source, raw, typed)
    checked = typed.with_row_index(_ROW).join(reasons, on=_ROW, how="left", maintain_order="left")
    raw_json = _raw_json(source, raw, checked.get_column(REASON), key)
    return protect_rows(source.columns, checked.drop(_ROW), key).with_columns(raw_json)


def cast_rows(source: Source, rows: pl.DataFrame) -> pl.DataFrame:
    """Cast the declared columns to their types; a cell that cannot be cast becomes null."""
    return rows.select(cast_column(column, rows.schema[column.name]) for column in source.columns)


def cast_column(column: Column, source_type: pl.DataType) -> pl.Expr:
    """Return an expression that casts a column, as it was read, to its kind; null where a cell cannot be cast."""
    value, target = pl.col(column.name), POLARS_TYPES[column.kind]
    if column.kind == "timestamp" and source_type == pl.String:
        options: dict[str, Any] = {"time_unit": "us", "time_zone": "UTC", "strict": False}
        return pl.coalesce(value.str.to_datetime(form, **options) for form in _TIME_FORMATS).alias(column.name)
    if column.kind == "number":
        return value.cast(target, strict=False).fill_nan(None)
    return value.cast(target, strict=False)


def type_reason(column: Column) -> str:
    """Return the reason of a row whose cell of this column is of another kind."""
    return f"{column.name} is not a {column.kind}"


def early_reason(source: Source) -> str:
    """Return the reason of a row that was known before it happened."""
    return f"{source.known_at} is before {source.event_time}"


def deduplicate(source: Source, rows: pl.DataFrame) -> pl.DataFrame:
    """Of valid rows with the same key, find the versions, and give the others a reason.

    Args:
        source: The rules.
        rows: Result of ``validate_rows``, with all rows of a key.

    Returns:
        The rows in known-at order, with ``KNOWN_FROM``, which is null for the first valid row of each key.
    """
    unversioned = rows.drop(KNOWN_FROM, strict=False)
    ordered = unversioned.sort(source.known_at, maintain_order=True).with_row_index(_ROW)
    good = ordered.filter(pl.col(REASON).is_null())
    repeats = good.filter(pl.struct(source.key).is_duplicated())
    chained = chain_versions(source, repeats).select(_ROW, KNOWN_FROM, REPEATED)
    versioned = ordered.join(chained, on=_ROW, how="left", maintain_order="left")
    why = pl.when(pl.col(REPEATED)).then(pl.lit(_repeat_reason(source))).otherwise(REASON)
    return add_raw(source, versioned.with_columns(why.alias(REASON)).drop(_ROW, REPEATED))


def refuse_versions(source: Source, rows: pl.DataFrame) -> pl.DataFrame:
    """Give rows that cannot correct the rows of the table a reason."""
    early = f"{source.known_at} is before that of the row with the same {', '.join(source.key)}"
    why = pl.when(pl.col(EARLY)).then(pl.lit(early)).otherwise(pl.lit(_repeat_reason(source)))
    return add_raw(source, rows.with_columns(why.alias(REASON), pl.lit(None, pl.String).alias(RAW)).drop(EARLY))


def add_raw(source: Source, rows: pl.DataFrame) -> pl.DataFrame:
    """Add the row as JSON where a row has a reason and no such text yet.

    These rows have passed all checks of single rows, so that their stored columns are what was read.
    """
    refused = rows.get_column(REASON).is_not_null() & rows.get_column(RAW).is_null()
    cells = _json(rows.select(c.name for c in source.stored_columns), refused)
    return rows.with_columns(pl.coalesce(RAW, cells).alias(RAW))


def _repeat_reason(source: Source) -> str:
    return f"repeats the key {', '.join(source.key)}"


def quarantine_rows(source: Source, bad: pl.DataFrame) -> pl.DataFrame:
    """Convert invalid rows to rows of the quarantine table: source, reason, and the row as JSON."""
    return bad.select(
        pl.lit(source.name).alias("source"), pl.col(REASON).alias("reason"), pl.col(RAW).alias("row")
    ).cast(pl.String)


def count_reasons(reasons: Iterable[str]) -> dict[str, int]:
    """Count the rows that have each reason; ``reasons`` may be joined by ``REASON_SEPARATOR``."""
    return dict(Counter(part for reason in reasons for part in reason.split(REASON_SEPARATOR)))


def staleness(source: Source, newest: datetime | None, now: datetime) -> str:
    """Describe in a sentence how stale the source is; empty when it is fresh."""
    if source.fresh_within is None:
        return ""
    if newest is None:
        return f"source {source.name!r} has no rows, but must be fresh within {source.fresh_within}"
    if now - newest <= source.fresh_within:
        return ""
    return (
        f"source {source.name!r} is stale: its newest row is of {newest:%Y-%m-%d %H:%M:%S} UTC,"
        f" {timedelta(seconds=round((now - newest).total_seconds()))} ago; the limit is {source.fresh_within}"
    )


def _reasons(source: Source, raw: pl.DataFrame, typed: pl.DataFrame) -> pl.DataFrame:
    """Row number and reason of each invalid row."""
    failures = pl.concat([_type_failures(source, raw, typed), _rule_failures(source, typed)])
    # A mistyped cell became null: reporting it as missing, too, would add nothing.
    single = failures.unique([_ROW, "column"], keep="first", maintain_order=True)
    return single.group_by(_ROW, maintain_order=True).agg(pl.col(REASON).str.join(REASON_SEPARATOR))


def _type_failures(source: Source, raw: pl.DataFrame, typed: pl.DataFrame) -> pl.DataFrame:
    violations = []
    for column in source.columns:
        values = raw.get_column(column.name)
        present = values.is_not_null() & (values.is_not_nan() if values.dtype.is_float() else True)
        rows = (present & typed.get_column(column.name).is_null()).arg_true().cast(pl.UInt32)
        violations.append(_failures(rows, column.name, type_reason(column)))
    return pl.concat(violations)


def _rule_failures(source: Source, typed: pl.DataFrame) -> pl.DataFrame:
    """Failures that pandera finds, one for each row, column and rule."""
    from pandera.config import ValidationDepth, config_context
    from pandera.errors import SchemaErrors

    no_failures = _failures(pl.Series([], dtype=pl.UInt32), "", "")
    if typed.is_empty():
        return no_failures
    try:
        # Independent of PANDERA_VALIDATION_ENABLED in this process.
        with config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA):
            _schema(source).validate(typed, lazy=True)
    except SchemaErrors as error:
        cases: pl.DataFrame = error.failure_cases
        _require_evaluated(source, cases)
        missing = pl.col("check") == _NULLS
        return cases.select(
            pl.col("index").cast(pl.UInt32).alias(_ROW),
            pl.coalesce("column", "check").alias("column"),
            pl.when(missing).then(pl.format("{} is missing", "column")).otherwise("check").alias(REASON),
        )
    return no_failures


def _require_evaluated(source: Source, cases: pl.DataFrame) -> None:
    """When a check itself fails, pandera gives no row, since it has checked none of them."""
    failed = cases.filter(pl.col("index").is_null())
    if failed.height:
        # Only the name of the error: its text may quote a cell, even of a personal column.
        fault = str(failed["failure_case"][0]).partition("(")[0]
        raise DataError("data.rule_failed", source=source.name, rule=str(failed["check"][0]), fault=fault)


def _schema(source: Source) -> pandera.DataFrameSchema:
    """The source's rules; the ``error`` of a check becomes the reason."""
    import pandera.polars as pandera

    required = {*source.key, source.event_time, source.known_at, *source.required}
    checks: dict[str, list[pandera.Check]] = {column.name: [] for column in source.columns}
    for name, (low, high) in source.ranges.items():
        checks[name].append(pandera.Check.in_range(low, high, error=f"{name} is outside {low:g} to {high:g}"))
    for name, values in source.categories.items():
        checks[name].append(pandera.Check.isin(values, error=f"{name} is none of {', '.join(values)}"))
    for name, pattern in source.patterns.items():
        checks[name].append(pandera.Check.str_matches(f"(?:{pattern})", error=f"{name} does not match {pattern}"))
    early = pl.col(source.known_at) >= pl.col(source.event_time)
    rules = {early_reason(source): early, **source.rules}
    return pandera.DataFrameSchema(
        {c.name: pandera.Column(checks=checks[c.name], nullable=c.name not in required) for c in source.columns},
        checks=[pandera.Check(partial(_holds, rule), error=reason) for reason, rule in rules.items()],
    )


def _holds(rule: pl.Expr, data: Any) -> pl.LazyFrame:
    """Whether each row keeps a rule; null counts as yes."""
    return data.lazyframe.select(rule.fill_null(True))


def _raw_json(source: Source, raw: pl.DataFrame, reasons: pl.Series, key: PseudonymKey | None) -> pl.Series:
    """Invalid rows as JSON before their cells were cast, personal data protected."""
    hashed = [column.name for column in source.columns if column.personal == "hash"]
    text = raw.with_columns(pl.col(name).cast(pl.String) for name in hashed)
    return _json(protect_rows(source.columns, text, key), reasons.is_not_null())


def _json(rows: pl.DataFrame, mask: pl.Series) -> pl.Series:
    """The rows where ``mask`` as JSON, null for the others."""
    cells = [json.dumps(row, default=str, sort_keys=True) for row in rows.filter(mask).iter_rows(named=True)]
    return pl.Series(RAW, [None], dtype=pl.String).new_from_index(0, rows.height).scatter(mask.arg_true(), cells)


def _failures(rows: pl.Series, column: str, reason: str) -> pl.DataFrame:
    return pl.DataFrame({_ROW: rows}).with_columns(pl.lit(column).alias("column"), pl.lit(reason).alias(REASON))
