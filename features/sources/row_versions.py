"""Versions of rows at ingestion: a known row is left out, one with other values is a further version of it. Pure.

Rows are compared by a hash of their values, 64 bits; the known-at time is not part of them. A version is known from:

- its own known-at time, if that is later than that of the version before it and than the last ingestion;
- the time of this ingestion otherwise: the source corrected the row and did not say when, or says that it was known
  when a frame may have been built without it.

A row that equals an older version, known-at time included, is that version. A row with other values and an earlier
known-at time than the row it would correct, and one that the source has beside the row it would correct, with the same
known-at time, are refused: the source does not say which of them counts. Of new rows with one key and one known-at
time, the one with the smallest hash counts: blocks come in any order, and what lands must not depend on it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from features.sources.source import Source
from features.types import INSTANT, KNOWN_FROM, POLARS_TYPES

PENDING = "__pending"
"""Reason of a row whose key the table has with other values: decided once all rows are read (``resolve``)."""
SEEN = "__seen"
"""Reason of a row that is none: it says which rows of the table a block has (``encode_seen``)."""

REPEATED = "__repeated"
"""Column of rows that share keys: whether one is neither the first of its key nor a version."""
EARLY = "__early"
"""Column of refused rows: whether one is known before the row that it would correct."""

_VALUES, _AT, _FROM, _INDEX = "__values", "__delivered", "__from", "__index"
_LAST, _FLOOR, _ROW = "__last", "__floor", "__number"
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class KnownRows:
    """What a table has."""

    newest: pl.DataFrame
    """Of each key the newest version: hash of its values, known-at time, ``KNOWN_FROM``, and its number."""
    older: pl.DataFrame
    """Keys, hashes and known-at times of the other versions."""

    @classmethod
    def build(cls, source: Source, batches: Iterable[pl.DataFrame]) -> KnownRows:
        """Build it from the rows of the table, which may lack columns that were declared since."""
        parts = [_fingerprints(source, rows) for rows in batches] or [_fingerprints(source, pl.DataFrame())]
        versions = pl.concat(parts)
        if versions.get_column(_FROM).null_count() == versions.height:
            return cls(versions.with_row_index(_INDEX), versions.clear().drop(_FROM))
        versions = versions.sort(_FROM, nulls_last=False, maintain_order=True)
        newest = versions.unique(list(source.key), keep="last", maintain_order=True)
        older = versions.join(newest, on=[*source.key, _FROM], how="anti", nulls_equal=True)
        return cls(newest.with_row_index(_INDEX), older.drop(_FROM))


def fingerprint_columns(source: Source) -> list[str]:
    """Return the columns of a source's table that are compared, or identify a row."""
    return [column.name for column in source.stored_columns]


def separate_known(source: Source, rows: pl.DataFrame, known: KnownRows) -> tuple[pl.DataFrame, np.ndarray]:
    """Leave out the valid rows that a table has.

    Args:
        source: The source.
        rows: Valid rows, in the stored types.
        known: What the table has.

    Returns:
        The other rows, in order, with a column ``PENDING``: whether the table has the key, with other values. And the
        numbers of the table's newest rows that were left out.
    """
    if known.newest.is_empty():
        return rows.with_columns(pl.lit(False).alias(PENDING)), np.empty(0, np.uint32)
    key = list(source.key)
    of_key = known.newest.select(*key, _INDEX, _AT, pl.col(_VALUES).alias(_LAST))
    marked = rows.select(key).with_columns(_hash(source, rows))
    found = marked.join(of_key, on=key, how="left", nulls_equal=True, maintain_order="left").drop(key)
    is_same = (found.get_column(_VALUES) == found.get_column(_LAST)).fill_null(False)
    seen = found.get_column(_INDEX).filter(is_same).to_numpy()
    joined = pl.concat([rows, found], how="horizontal")
    others = joined.filter(~is_same)
    if known.older.height and others.height:
        on, older = [*key, _VALUES, source.known_at], known.older.rename({_AT: source.known_at})
        is_old = others.join(older, on=on, how="semi", nulls_equal=True, maintain_order="left")
        # With the newest one's known-at time, it is a correction back to earlier values.
        is_old = is_old.filter(pl.col(source.known_at) < pl.col(_AT)).select(on).unique()
        others = others.join(is_old, on=on, how="anti", nulls_equal=True, maintain_order="left")
    # Beside other values, a row that repeats the newest one later may be a change back.
    if others.height:
        repeats = joined.filter(is_same & (joined.get_column(source.known_at) > joined.get_column(_AT)))
        others = pl.concat([others, repeats.join(others, on=key, how="semi", nulls_equal=True)])
    return others.select(*rows.columns, pl.col(_INDEX).is_not_null().alias(PENDING)), seen


def chain_versions(source: Source, rows: pl.DataFrame) -> pl.DataFrame:
    """Find the versions among rows that share keys.

    Args:
        source: The source.
        rows: All rows of their keys.

    Returns:
        The rows in known-at order, with ``KNOWN_FROM``, null for the first of each key; and a column ``REPEATED``,
        whether a row repeats the one before it, or differs without a later known-at time.
    """
    key = list(source.key)
    marked = rows.with_columns(_hash(source, rows)).sort(source.known_at, _VALUES).with_row_index(_INDEX)
    first = marked.unique(key, keep="first", maintain_order=True)
    start = first.select(*key, pl.col(_VALUES).alias(_LAST), pl.col(source.known_at).alias(_FLOOR))
    others = marked.join(first, on=_INDEX, how="anti", maintain_order="left")
    accepted = _chain(source, others.join(start, on=key, how="left", maintain_order="left"))
    is_version = pl.col(_INDEX).is_in(accepted.get_column(_INDEX).implode())
    refused = ~is_version & ~pl.col(_INDEX).is_in(first.get_column(_INDEX).implode())
    known_from = pl.when(is_version).then(source.known_at).otherwise(pl.lit(None, INSTANT)).alias(KNOWN_FROM)
    return marked.with_columns(known_from, refused.alias(REPEATED)).drop(_VALUES, _INDEX)


def _chain(source: Source, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows that follow each other as versions, ``_VALUES`` and time after ``_LAST`` and ``_FLOOR`` of their keys.

    Each differs from the version before it and is known later; rows between them are no versions.
    """
    key, at = list(source.key), pl.col(source.known_at)
    left = rows.filter(at > pl.col(_FLOOR))
    follows = (pl.col(_VALUES) != pl.col(_VALUES).shift().fill_null(pl.col(_LAST))) & (at > at.shift()).fill_null(True)
    is_chain = follows.over(key).all().over(key)
    accepted, left = [rows.clear(), left.filter(is_chain)], left.filter(~is_chain)
    while left.height:
        first = left.filter(pl.col(_VALUES) != pl.col(_LAST)).unique(key, keep="first", maintain_order=True)
        accepted.append(first)
        newest = first.select(*key, pl.col(_VALUES).alias(_LAST), at.alias(_FLOOR))
        left = left.drop(_LAST, _FLOOR).join(newest, on=key, nulls_equal=True, maintain_order="left")
        left = left.filter(at > pl.col(_FLOOR))
    return pl.concat([part.select(rows.columns) for part in accepted])


def resolve(
    source: Source,
    pending: pl.DataFrame,
    known: KnownRows,
    seen: np.ndarray,
    now: datetime,
    last_ingestion: datetime | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Decide which rows are versions of rows that a table has.

    Args:
        source: The source.
        pending: Rows with keys of the table and other values.
        known: What the table has.
        seen: Numbers of the table's newest rows that the source still has.
        now: Time of ingestion.
        last_ingestion: Time of the ingestion before; None when it is not on record.

    Returns:
        The versions, with ``KNOWN_FROM``; and the refused rows, with ``EARLY``.
    """
    key, at = list(source.key), pl.col(source.known_at)
    of_key = known.newest.rename({_VALUES: _LAST})
    joined = pending.join(of_key, on=key, how="left", nulls_equal=True, maintain_order="left")
    hashed = joined.with_columns(_hash(source, joined), pl.col(_AT).alias(_FLOOR))
    rows = hashed.sort(source.known_at, _VALUES).with_row_index(_ROW)
    advancing = _chain(source, rows)
    is_only = (pl.col(_VALUES).n_unique().over(key) == 1) & (pl.col(_VALUES) != pl.col(_LAST))
    only = rows.filter(at >= pl.col(_AT)).filter(is_only).unique(key, keep="first", maintain_order=True)
    beside = pl.col(_INDEX).is_in(pl.Series(np.unique(seen), dtype=pl.UInt32).implode()) & (at == pl.col(_AT))
    corrected = only.filter(~beside).join(advancing, on=key, how="anti", nulls_equal=True)
    accepted = pl.concat([part.select(rows.columns) for part in (advancing, corrected)]).sort(_ROW)
    versions = accepted.select(_ROW, _known_from(source, now, last_ingestion))
    decided = rows.join(versions, on=_ROW, how="left", maintain_order="left").with_columns(
        (at < pl.col(_AT)).alias(EARLY)
    )
    is_version, is_known = pl.col(KNOWN_FROM).is_not_null(), pl.col(_VALUES) == pl.col(_LAST)
    own = (_ROW, _VALUES, _LAST, _FLOOR, _AT, _FROM, _INDEX)
    refused = decided.filter(~is_version & ~is_known)
    return decided.filter(is_version).drop(*own, EARLY), refused.drop(*own, KNOWN_FROM)


def _known_from(source: Source, now: datetime, last_ingestion: datetime | None) -> pl.Expr:
    """From when each of the versions of a key is known: later than the one before it."""
    key, at = list(source.key), pl.col(source.known_at)
    is_recent = at > pl.lit(last_ingestion, INSTANT) if last_ingestion else pl.lit(True)
    stated = pl.when((at > pl.col(_AT)) & is_recent).then(at).otherwise(pl.lit(now, INSTANT))
    after = pl.max_horizontal(stated, pl.col(_FROM) + _MICROSECOND, pl.col(_AT) + _MICROSECOND)
    latest = after.cum_max().over(key)
    equal = pl.int_range(pl.len()).over([*key, latest])
    return (latest + equal * pl.duration(microseconds=1)).alias(KNOWN_FROM)


def encode_seen(numbers: np.ndarray) -> str:
    """Encode numbers of rows as text."""
    return base64.b64encode(numbers.astype(np.uint32).tobytes()).decode()


def decode_seen(texts: Iterable[str]) -> np.ndarray:
    """Decode and concatenate such texts."""
    return np.concatenate([np.empty(0, np.uint32), *(np.frombuffer(base64.b64decode(t), np.uint32) for t in texts)])


def _fingerprints(source: Source, rows: pl.DataFrame) -> pl.DataFrame:
    kinds = {column.name: POLARS_TYPES[column.kind] for column in source.stored_columns}
    types: dict[str, pl.DataType] = {**kinds, KNOWN_FROM: INSTANT}
    lacking = [pl.lit(None, kind).alias(name) for name, kind in types.items() if name not in rows.columns]
    whole = (rows.with_columns(lacking) if rows.width else pl.DataFrame(schema=types)).cast(pl.Schema(types))
    times = [pl.col(source.known_at).alias(_AT), pl.col(KNOWN_FROM).alias(_FROM)]
    return whole.with_columns(_hash(source, whole)).select(*source.key, _VALUES, *times)


def _hash(source: Source, rows: pl.DataFrame) -> pl.Series:
    """A hash of each row's values but for its key and known-at time; 0.0 and -0.0 are one value."""
    columns = [c for c in source.stored_columns if c.name not in (*source.key, source.known_at)]
    values = rows.select(c.name for c in columns)
    if any(c.kind == "tensor" for c in columns):
        return values.select(pl.struct(pl.all()).hash(seed=0).alias(_VALUES)).to_series()
    return (
        values.hash_rows(seed=0).alias(_VALUES)
        if columns
        else pl.zeros(rows.height, pl.UInt64, eager=True).alias(_VALUES)
    )
