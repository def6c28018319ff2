"""Diagnostics about the rows of one source. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import polars as pl

from cluster.errors import DataError, ProjectError
from features.sources.source import Source
from features.sources.table_files import TableSample
from features.sources.validation import REASON, cast_rows, count_reasons, early_reason, type_reason, validate_rows
from rayloop.project_check.diagnostics import Diagnostic

RULE_ROWS = 20_000
"""Rows, evenly spaced in the sample, that are validated."""
SOME = 0.01
"""Share of rows beyond which a repeated key is no accident."""
_SHOWN = 3


def without_protection(source: Source) -> Source:
    """Return a source that hashes and drops no column: a check stores nothing, and needs no key for pseudonyms."""
    return replace(source, columns=tuple(column.model_copy(update={"personal": None}) for column in source.columns))


def typed_rows(source: Source, sample: TableSample) -> pl.DataFrame:
    """Return the sampled rows in the declared types, without those that lack key or times.

    Raises:
        DataError: The table lacks a declared column.
    """
    source.require_columns(sample.columns)
    return cast_rows(source, sample.rows).drop_nulls([*source.key, source.event_time, source.known_at])


def check_source(source: Source, sample: TableSample) -> Iterator[Diagnostic]:
    """Find what is wrong with the rows of a source.

    Args:
        source: The source, without protection.
        sample: Rows of it.
    """
    where = f"source {source.name!r}"
    try:
        source.require_columns(sample.columns)
        if sample.rows.is_empty():
            raise DataError("data.source_empty", source=source.name)
        rows = sample.rows.gather_every(-(-sample.rows.height // RULE_ROWS))
        yield from _check_rules(source, rows, validate_rows(source, rows))
        yield from _check_key(source, typed_rows(source, sample))
    except DataError as error:
        yield Diagnostic.from_error(error, where)


def _check_rules(source: Source, rows: pl.DataFrame, validated: pl.DataFrame) -> Iterator[Diagnostic]:
    where, refused = f"source {source.name!r}", validated.get_column(REASON).drop_nulls()
    reasons = count_reasons(refused)
    for column in source.columns:
        present = rows.get_column(column.name).is_not_null().sum()
        if present and reasons.get(type_reason(column), 0) == present:
            del reasons[type_reason(column)]
            kind = rows.schema[column.name]
            error = DataError("data.column_unusable", column=column.name, type=str(kind), kind=column.kind)
            yield Diagnostic.from_error(error, where)
    if early := reasons.pop(early_reason(source), 0):
        share, known_at = early / rows.height, source.known_at
        error = DataError(
            "data.known_before_event", rows=f"{share:.2%}", event_time=source.event_time, known_at=known_at
        )
        yield Diagnostic.from_error(error, where, "error" if share > 0.5 else "warning")
    if reasons:
        most = sorted(reasons.items(), key=lambda reason: -reason[1])[:_SHOWN]
        why = ", ".join(f"{reason} ({count / rows.height:.2%})" for reason, count in most)
        invalid = DataError("data.rows_refused", rows=f"{len(refused) / rows.height:.2%}", reasons=why)
        yield Diagnostic.from_error(invalid, where, "error" if len(refused) == rows.height else "warning")


def _check_key(source: Source, rows: pl.DataFrame) -> Iterator[Diagnostic]:
    """Find rows that share key and known-at time, but not their values; of equal rows, one counts."""
    version = list(dict.fromkeys((*source.key, source.known_at)))
    repeated = rows.filter(pl.struct(version).is_duplicated()).unique()
    contradicting = repeated.filter(pl.struct(version).is_duplicated()).height
    if contradicting:
        share = contradicting / rows.height
        key = ", ".join(source.key)
        error = ProjectError(
            "project.key_repeats",
            key=key,
            rows=f"{contradicting:,}",
            total=f"{rows.height:,}",
            known_at=source.known_at,
        )
        yield Diagnostic.from_error(error, f"source {source.name!r}", "error" if share > SOME else "warning")
