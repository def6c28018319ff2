"""Corrections of rows that are in the online store: the states of their entities are rebuilt from the table.

A state keeps each event of its windows, but neither the source's key of an event nor those that are too old for any
window, one of which a corrected row may have hidden from latest. So nothing is subtracted: the table has all versions,
and the state of each entity that a corrected row had or has is built again from those known now.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from cluster.storage.tables import Tables
from cluster.values import Snapshot
from features.definitions import FeatureView
from features.online.backfill import rebuild_entities
from features.online.materialize import corrections_key, watermark
from features.online.store import OnlineStore
from features.sources.stored_rows import Corrections, find_corrections, stored_parts
from features.types import KNOWN_FROM


def rebuild_corrected(store: OnlineStore, view: FeatureView, tables: Tables, snapshot: Snapshot, until_us: int) -> int:
    """Rebuild the entities whose rows were corrected since ``record_corrections``.

    Args:
        store: The online store.
        view: The view.
        tables: The catalog.
        snapshot: Snapshot of the view's source.
        until_us: Use corrections known at this time at the latest, microseconds since the epoch.

    Returns:
        The number of rebuilt states.
    """
    corrections, _ = find_corrections(tables, snapshot)
    if corrections is None or watermark(store, view) is None:
        return 0
    keys = _new_keys(corrections, *_recorded(store, view, tables, snapshot.table), until_us)
    if keys.is_empty():
        return 0
    parts = stored_parts(tables, snapshot)
    entities = pl.concat(
        pl.DataFrame(part.table(list({*corrections.key, *view.entity.keys})))
        .join(keys, on=list(corrections.key), how="semi")
        .select(pl.col(view.entity.keys).cast(pl.String))
        .unique()
        for part in parts
    )
    batches: Iterator[pl.DataFrame] = (pl.DataFrame(rows) for part in parts for rows in part.read(view.source_columns))
    result = rebuild_entities(store, view, batches, entities, until_us, keep_pushed=True)
    return result.entities + result.removed_entities


def record_corrections(store: OnlineStore, view: FeatureView, snapshot: Snapshot, until_us: int) -> None:
    """Record that the view's states have all corrections of a snapshot that are known at a time.

    Args:
        store: The online store.
        view: The view.
        snapshot: Snapshot of the view's source.
        until_us: The time, microseconds since the epoch.
    """
    store.put_many({corrections_key(view): b"%d:%d" % (snapshot.id, until_us)})


def _recorded(store: OnlineStore, view: FeatureView, tables: Tables, table: str) -> tuple[frozenset[str], int]:
    """The data files that were applied, and until when; none without a record, or once its snapshot has expired."""
    (mark,) = store.get_many([corrections_key(view)])
    if mark is None:
        return frozenset(), 0
    number, until = map(int, mark.split(b":"))
    snapshot = Snapshot(table=table, id=number, rows=0)
    if not tables.has_snapshot(snapshot):
        return frozenset(), 0
    return frozenset(part.path for part in tables.parts(snapshot)[1]), until


def _new_keys(corrections: Corrections, applied: frozenset[str], applied_until: int, until_us: int) -> pl.DataFrame:
    """Keys of rows with corrections in new files, and with those that were not known at the last load."""
    known = pl.col(KNOWN_FROM).dt.epoch("us")
    keys = []
    for part in corrections.parts:
        rows = pl.DataFrame(part.table([*corrections.key, KNOWN_FROM])).filter(known <= until_us)
        keys.append(rows.filter(known > applied_until) if part.path in applied else rows.drop_nulls(KNOWN_FROM))
    return pl.concat(keys).select(corrections.key).unique()
