"""Registry of erased entities, kept as digests, so that ingestion does not bring their rows back.

A digest is BLAKE2b of the entity's columns and values, keyed with the key for personal data if there is one. Without a
key, anyone who can guess a value can confirm that it was erased.
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
_ROW = "__row"

_SCHEMA = pa.schema(
    [("columns", pa.string()), ("digest", pa.string()), ("keyed", pa.bool_()), ("at", pa.timestamp("us", tz="UTC"))]
)


def entity_digest(entity: Mapping[str, str], key: PseudonymKey | None) -> str:
    """Hash an entity.

    Args:
        entity: Values by column, as stored: hashed columns by their tokens.
        key: Key for personal data, if the project has one.
    """
    text = json.dumps(dict(sorted(entity.items())), ensure_ascii=False)
    return key.token(text) if key else hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class ErasureRegistry:
    """The erased entities of a project.

    ``entries`` groups digests by the columns that they cover, and by whether they are keyed.
    """

    entries: tuple[tuple[tuple[str, ...], bool, frozenset[str]], ...] = ()

    @property
    def has_keyed_entries(self) -> bool:
        """Whether the key for personal data is needed to apply the registry."""
        return any(keyed for _, keyed, _ in self.entries)

    @classmethod
    def read(cls, tables: Tables, namespace: str) -> ErasureRegistry:
        """Read the registry of a project; without a table, it is empty."""
        name = f"{namespace}.{ERASURE_TABLE}"
        if not tables.exists(name):
            return cls()
        rows = pl.DataFrame(tables.read(name, columns=["columns", "digest", "keyed"]))
        groups = rows.group_by("columns", "keyed", maintain_order=True).agg("digest")
        return cls(tuple((tuple(json.loads(c)), keyed, frozenset(digests)) for c, keyed, digests in groups.iter_rows()))

    def drop_erased(self, rows: pl.DataFrame, key: PseudonymKey | None) -> pl.DataFrame:
        """Leave out the rows of erased entities; ``rows`` are as stored, in the stored types."""
        for columns, keyed, digests in self.entries:
            if set(columns) <= set(rows.columns):
                rows = _drop(rows, columns, digests, key if keyed else None)
        return rows


def record_erasure(
    tables: Tables, namespace: str, entity: Mapping[str, str], key: PseudonymKey | None, at: datetime
) -> None:
    """Add an entity to the registry; does nothing if it is there already.

    Args:
        tables: The catalog.
        namespace: Name of the project.
        entity: The entity's key: values by column. Only their digest is stored.
        key: Key of the digest; None: the digest is not keyed.
        at: When the entity was erased.
    """
    digest = entity_digest(entity, key)
    row = {"columns": json.dumps(sorted(entity)), "digest": digest, "keyed": key is not None, "at": at}
    tables.append(f"{namespace}.{ERASURE_TABLE}", pa.Table.from_pylist([row], _SCHEMA), key=digest)


def _drop(
    rows: pl.DataFrame, columns: Sequence[str], digests: frozenset[str], key: PseudonymKey | None
) -> pl.DataFrame:
    texts = rows.select(pl.col(list(columns)).cast(pl.String))
    entities = texts.unique().drop_nulls()
    is_erased = [
        entity_digest(dict(zip(entities.columns, values, strict=True)), key) in digests
        for values in entities.iter_rows()
    ]
    erased = entities.filter(pl.Series(is_erased, dtype=pl.Boolean))
    if erased.is_empty():
        return rows
    # By row number, because columns may have types other than text.
    kept = texts.with_row_index(_ROW).join(erased, on=list(columns), how="anti", maintain_order="left")
    return rows[kept.get_column(_ROW)]
