"""Whom we were asked to forget: kept as digests, so that landing does not bring the rows back.

A digest is BLAKE2b of the entity's columns and values, keyed with the key for personal data where there is one. Without a
key it hides a value only from who cannot guess it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl
import pyarrow as pa

from cluster.storage.tables import Tables
from features.sources.pseudonyms import PseudonymKey

ERASURE_TABLE = "forgotten"

_SCHEMA = pa.schema(
    [("columns", pa.string()), ("digest", pa.string()), ("keyed", pa.bool_()), ("at", pa.timestamp("us", tz="UTC"))]
)


def entity_digest(entity: Mapping[str, str], names: PseudonymKey | None) -> str:
    """Of an entity as it is stored, hashed columns by their tokens."""
    text = json.dumps(dict(sorted(entity.items())), ensure_ascii=False)
    return names.token(text) if names else hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class ErasureRegistry:
    """Digests by the columns that they are of, apart for keyed and other ones."""

    entries: tuple[tuple[tuple[str, ...], bool, frozenset[str]], ...] = ()

    @property
    def has_keyed_entries(self) -> bool:
        return any(keyed for _, keyed, _ in self.entries)

    @classmethod
    def read(cls, tables: Tables, namespace: str) -> ErasureRegistry:
        name = f"{namespace}.{ERASURE_TABLE}"
        if not tables.exists(name):
            return cls()
        rows = pl.DataFrame(tables.read(name, columns=["columns", "digest", "keyed"]))
        groups = rows.group_by("columns", "keyed", maintain_order=True).agg("digest")
        return cls(tuple((tuple(json.loads(c)), keyed, frozenset(found)) for c, keyed, found in groups.iter_rows()))

    def drop_erased(self, rows: pl.DataFrame, names: PseudonymKey | None) -> pl.DataFrame:
        """The rows, stored columns in their types, that are of nobody who is forgotten."""
        for columns, keyed, digests in self.entries:
            if set(columns) <= set(rows.columns):
                rows = _without(rows, columns, digests, names if keyed else None)
        return rows


def record_erasure(
    tables: Tables, namespace: str, entity: Mapping[str, str], names: PseudonymKey | None, at: datetime
) -> None:
    """Note that the entity is forgotten; noted before, it is not noted again."""
    mark = entity_digest(entity, names)
    row = {"columns": json.dumps(sorted(entity)), "digest": mark, "keyed": names is not None, "at": at}
    tables.append(f"{namespace}.{ERASURE_TABLE}", pa.Table.from_pylist([row], _SCHEMA), key=mark)


def _without(
    rows: pl.DataFrame, columns: Sequence[str], digests: frozenset[str], names: PseudonymKey | None
) -> pl.DataFrame:
    texts = rows.select(pl.col(list(columns)).cast(pl.String))
    entities = texts.unique().drop_nulls()
    gone = [
        entity_digest(dict(zip(entities.columns, values, strict=True)), names) in digests
        for values in entities.iter_rows()
    ]
    keys = [f"__{name}" for name in columns]
    hidden = entities.filter(pl.Series(gone, dtype=pl.Boolean)).rename(dict(zip(columns, keys, strict=True)))
    if hidden.is_empty():
        return rows
    return (
        rows.with_columns(texts.get_column(name).alias(key) for name, key in zip(columns, keys, strict=True))
        .join(hidden, on=keys, how="anti", maintain_order="left")
        .drop(keys)
    )
