"""Labels that depend on later rows, computed by the join that computes features: as of the end of each row's time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa
import ray

from cluster.storage.tables import Tables
from cluster.values import Snapshot
from features.offline.distributed_join import Reference, point_in_time_join
from features.outcomes import LabelWithin, key_column
from features.sources.stored_rows import StoredPart, stored_parts
from features.types import AS_OF, INSTANT, KNOWN_FROM, LABEL, LABEL_KNOWN_AT


def newest_known(tables: Tables, snapshot: Snapshot, label: LabelWithin, until: datetime | None) -> datetime:
    """Return until when the events are known: a row whose time ends later has no label yet.

    Args:
        tables: The catalog.
        snapshot: Snapshot of the events' table.
        label: The label.
        until: Use what was known at this time; None: all.
    """
    newest = datetime(1, 1, 1, tzinfo=UTC)
    for part in stored_parts(tables, snapshot):
        rows = pl.DataFrame(part.table([label.known_at]))
        known = [pl.col(name) for name in (label.known_at, KNOWN_FROM) if name in rows.columns]
        moments = rows.select(pl.max_horizontal(known).cast(INSTANT)).to_series()
        latest = moments.filter(moments <= until).max() if until else moments.max()
        newest = max(newest, latest) if isinstance(latest, datetime) else newest
    return newest


def label_blocks(
    blocks: Sequence[Reference], label: LabelWithin, parts: Sequence[StoredPart], max_tasks: int
) -> list[Reference]:
    """Give rows their labels.

    Args:
        blocks: References to tables of examples, with ``event_keys``.
        label: The label.
        parts: Data files of the events.
        max_tasks: Maximum number of tasks that run at the same time.

    Returns:
        References to the tables with their labels; rows without a key are left out.
    """
    queries = [_lookup_rows.remote(block, label) for block in blocks]
    outcomes = point_in_time_join((label.view,), queries, {label.view.source: parts}, max_tasks)
    return [_add_labels.remote(block, outcome, label) for block, outcome in zip(blocks, outcomes, strict=True)]


def lookup_rows(rows: pl.DataFrame, label: LabelWithin) -> pl.DataFrame:
    """Return the keys of rows, and the times as of which their labels are looked up."""
    end = (pl.col(LABEL_KNOWN_AT) - label.view.settle).alias(AS_OF)
    return rows.select(*(pl.col(key_column(key)).alias(key) for key in label.entity_keys), end)


def add_labels(rows: pl.DataFrame, outcomes: pl.Series, label: LabelWithin) -> pl.DataFrame:
    """Return rows with what the lookup gave as their labels, without those that have none."""
    labels = (outcomes > 0).cast(pl.Float64) if label.kind == "any" else outcomes
    return rows.with_columns(labels.alias(LABEL)).drop_nulls(LABEL)


@ray.remote(num_cpus=0.5)
def _lookup_rows(block: pa.Table, label: LabelWithin) -> Any:
    return lookup_rows(pl.DataFrame(block), label).to_arrow()


@ray.remote(num_cpus=0.5)
def _add_labels(block: pa.Table, outcome: pa.Table, label: LabelWithin) -> Any:
    return add_labels(pl.DataFrame(block), pl.DataFrame(outcome).get_column(LABEL), label).to_arrow()
