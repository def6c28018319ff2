"""What ingestion does with the rows of a block, and with those that need all blocks. Pure.

check_block              a block as it was read   ->  its new rows, those whose keys the table has, invalid ones
validation.deduplicate   all rows of some keys    ->  of new rows with one key, the versions
decide                   what is not simply new   ->  versions of the table's rows, and what goes to quarantine
"""

from __future__ import annotations

from datetime import datetime

import polars as pl

from features.sources import row_versions, validation
from features.sources.pseudonyms import PseudonymKey
from features.sources.row_versions import PENDING, SEEN, KnownRows
from features.sources.source import Source
from features.sources.validation import RAW, REASON
from features.types import INSTANT, KNOWN_FROM


def check_block(source: Source, block: pl.DataFrame, known: KnownRows, key: PseudonymKey | None = None) -> pl.DataFrame:
    """Validate rows, and leave out those that the table has.

    Args:
        source: The source.
        block: Rows as they were read.
        known: What the table has.
        key: Key for personal data, if a column is hashed.

    Returns:
        The other rows, as ``validate_rows`` gives them, with an empty ``KNOWN_FROM``. Valid rows with keys of the table
        have the reason ``PENDING``. A row with the reason ``SEEN`` says which rows of the table were left out.

    Raises:
        DataError: A column is missing, or a rule cannot be evaluated.
        SettingsError: A column must be hashed, and ``key`` is None.
    """
    rows = validation.validate_rows(source, block, key)
    bad, good = rows.filter(pl.col(REASON).is_not_null()), rows.filter(pl.col(REASON).is_null())
    others, seen = row_versions.separate_known(source, good, known)
    pending = [pl.when(PENDING).then(pl.lit(text)).alias(name) for name, text in ((REASON, PENDING), (RAW, ""))]
    parts = [bad, others.with_columns(pending).drop(PENDING)]
    if seen.size:
        parts.append(pl.DataFrame({REASON: [SEEN], RAW: [row_versions.encode_seen(seen)]}))
    return pl.concat(parts, how="diagonal").with_columns(_no_version())


def decide(
    source: Source, others: pl.DataFrame, known: KnownRows, now: datetime, last_ingestion: datetime | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Decide about the rows that have a reason, once all rows are read.

    Args:
        source: The source.
        others: All rows with a reason, of ``check_block`` and ``deduplicate``.
        known: What the table has.
        now: Time of ingestion.
        last_ingestion: Time of the ingestion before; None when it is not on record.

    Returns:
        The rows that are versions of the table's, with ``KNOWN_FROM``; and those that are invalid.
    """
    reason = pl.col(REASON)
    pending, bad = others.filter(reason == PENDING), others.filter(~reason.is_in([PENDING, SEEN]))
    if pending.is_empty():
        return pending, bad
    seen = row_versions.decode_seen(others.filter(reason == SEEN).get_column(RAW))
    versions, refused = row_versions.resolve(source, pending.drop(KNOWN_FROM), known, seen, now, last_ingestion)
    quarantined = validation.refuse_versions(source, refused).with_columns(_no_version())
    return versions, pl.concat([bad, quarantined.select(bad.columns)])


def _no_version() -> pl.Expr:
    return pl.lit(None, INSTANT).alias(KNOWN_FROM)
