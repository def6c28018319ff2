"""Ingestion without Ray: the steps of features/sources/ingestion.py over one block, into a table in memory."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import polars as pl

from features.sources import row_versions
from features.sources.landing import check_block, decide
from features.sources.source import Source
from features.sources.validation import REASON, deduplicate
from features.types import INSTANT, KNOWN_FROM, POLARS_TYPES


class Landed(NamedTuple):
    table: pl.DataFrame
    """All rows so far, with ``KNOWN_FROM``."""
    new: pl.DataFrame
    """Appended rows."""
    reasons: list[str]


def empty_table(source: Source) -> pl.DataFrame:
    kinds = {c.name: POLARS_TYPES[c.kind] for c in source.stored_columns}
    return pl.DataFrame(schema={**kinds, KNOWN_FROM: INSTANT})


def land(
    source: Source, table: pl.DataFrame, batch: pl.DataFrame, now: datetime, previous: datetime | None = None
) -> Landed:
    known = row_versions.KnownRows.build(source, [table])
    rows = deduplicate(source, check_block(source, batch, known))
    versions, bad = decide(source, rows.filter(pl.col(REASON).is_not_null()), known, now, previous)
    good = rows.filter(pl.col(REASON).is_null())
    new = pl.concat([part.select(table.columns) for part in (good, versions)])
    return Landed(pl.concat([table, new]), new, bad.get_column(REASON).to_list())
