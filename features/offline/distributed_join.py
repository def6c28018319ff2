"""The point-in-time join over a Ray cluster, for tables larger than memory and keys of any skew.

    partition_events   a data file, a view     ->  the view's history by bucket (skipped when there are few events:
                                                   join_partition then reads the files itself)
    partition_rows     a block, an entity      ->  keys and times of its rows by bucket
    join_partition     a partition of a view   ->  features of its rows by block
    assemble_block     a block                 ->  its rows in order, with the features of all views

No process ever has all data: a task has a data file, a block, or a partition. Between the steps, data is in Ray's
object store, which spills to disk. docs/decisions/0021 explains why this is not the shuffle of Ray Data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import ray

from cluster.errors import DataError
from features.definitions import FeatureView
from features.events import entity_partition
from features.events.entity_partition import Partition, Partitioning
from features.events.event_history import build_history
from features.offline.point_in_time import build_index, look_up_features
from features.sources.stored_rows import StoredPart
from features.types import AS_OF

Reference = Any
"""A ray.ObjectRef, whose type does not say what it refers to."""

_CPUS = 0.5


def point_in_time_join(
    views: Sequence[FeatureView],
    blocks: Sequence[Reference],
    sources: Mapping[str, Sequence[StoredPart]],
    max_tasks: int,
) -> list[Reference]:
    """Join blocks of rows with the features of views, on the cluster.

    Args:
        views: The views.
        blocks: References to pyarrow tables with the key columns and ``as_of``.
        sources: Data files of each source, in order.
        max_tasks: Maximum number of tasks that run at the same time; it bounds memory.

    Returns:
        References to the blocks with the views' features as further columns; rows, their order and repeats stay.
        Errors of single rows, such as DataError for a value too large for its resolution, are raised by ``ray.get``.

    Raises:
        DataError: A source has no rows.
    """
    pool = _TaskPool(max_tasks)
    counts = [entity_partition.bucket_count(_event_count(view, sources), len(views), max_tasks) for view in views]
    files = [_bucket_events(pool, view, sources[view.source], n) for view, n in zip(views, counts, strict=True)]
    entities = dict.fromkeys((view.entity.keys, count) for view, count in zip(views, counts, strict=True))
    rows = {entity: _bucket_rows(pool, blocks, *entity) for entity in entities}
    plans = [_plan(view, of_view) for view, of_view in zip(views, files, strict=True)]
    features = [
        [_join(pool, view, part, of_view, rows[view.entity.keys, plan.buckets]) for part in plan.partitions]
        for view, of_view, plan in zip(views, files, plans, strict=True)
    ]
    return [
        pool.run(_assemble_block, 1, block, plans, [[part[b] for part in of_view] for of_view in features])[0]
        for b, block in enumerate(blocks)
    ]


class _TaskPool:
    """Runs at most ``max_tasks`` tasks at a time; ``run`` blocks until there is room."""

    def __init__(self, max_tasks: int) -> None:
        self._max_tasks = max_tasks
        self._running: list[Reference] = []

    def run(self, task: Any, returns: int, *arguments: Any) -> list[Reference]:
        """Start a task; returns references to its ``returns`` results."""
        if len(self._running) >= self._max_tasks:
            _, self._running = ray.wait(self._running, num_returns=1, fetch_local=False)
        results = task.options(num_returns=returns).remote(*arguments)
        results = results if returns > 1 else [results]
        self._running.append(results[0])
        return list(results)


def _event_count(view: FeatureView, sources: Mapping[str, Sequence[StoredPart]]) -> int:
    files = sources[view.source]
    if not files:
        raise DataError("data.source_empty", view=view.name, source=view.source)
    return sum(file.rows for file in files)


def _bucket_events(pool: _TaskPool, view: FeatureView, files: Sequence[StoredPart], count: int) -> list[list[Any]]:
    """For each data file, statistics and buckets; with one bucket, the file itself, to be read where it is joined."""
    if count == 1:
        return [[None, file] for file in files]
    return [pool.run(_partition_events, 1 + count, file, view, count) for file in files]


def _bucket_rows(
    pool: _TaskPool, blocks: Sequence[Reference], keys: tuple[str, ...], count: int
) -> list[list[Reference]]:
    """The rows of each block by bucket."""
    if count == 1:
        return [[block] for block in blocks]
    return [pool.run(_partition_rows, count, block, keys, count) for block in blocks]


def _plan(view: FeatureView, files: list[list[Any]]) -> Partitioning:
    statistics = [of_file for of_file, *_ in files]
    if statistics[0] is None:
        return Partitioning(view.entity.keys, 1, (Partition(0),))
    buckets = list(zip(*ray.get(statistics), strict=True))
    events = [sum(n for n, _ in bucket) for bucket in buckets]
    samples = {b: np.concatenate([times for _, times in bucket]) for b, bucket in enumerate(buckets)}
    return entity_partition.plan_partitions(view.entity.keys, events, samples)


def _join(
    pool: _TaskPool, view: FeatureView, part: Partition, files: list[list[Any]], blocks: list[list[Reference]]
) -> list[Reference]:
    """The partition's features of each block's rows."""
    events = [file[1 + part.bucket] for file in files]
    rows = [block[part.bucket] for block in blocks]
    # References in lists are fetched one after another, so that a large bucket is never fetched as a whole.
    return pool.run(_join_partition, len(blocks), view, part, events, rows)


@ray.remote(num_cpus=_CPUS)
def _partition_events(file: StoredPart, view: FeatureView, count: int) -> Any:
    """For each bucket the number of events and a sample of their known-at times; and the history of each bucket."""
    history = _history(view, file)
    numbers = entity_partition.assign_buckets(history, view.entity.keys, count)
    pieces = entity_partition.split_rows(history, numbers, count)
    return [
        [(piece.height, entity_partition.sample_known_times(piece)) for piece in pieces],
        *(piece.to_arrow() for piece in pieces),
    ]


@ray.remote(num_cpus=_CPUS)
def _partition_rows(block: pa.Table, keys: tuple[str, ...], count: int) -> Any:
    rows = pl.DataFrame(block.select([*keys, AS_OF]))
    numbers = entity_partition.assign_buckets(rows, keys, count)
    return [piece.to_arrow() for piece in entity_partition.split_rows(rows, numbers, count)]


@ray.remote(num_cpus=_CPUS)
def _join_partition(view: FeatureView, part: Partition, events: list[Any], rows: list[Reference]) -> Any:
    """Features of the partition's rows, a table for each block."""
    history = entity_partition.select_events(view, part, (_history(view, piece) for piece in events))
    index = build_index(view, history)
    del history
    features = []
    for piece in rows:
        table: pa.Table = ray.get(piece)
        block = pl.DataFrame(table.select([*view.entity.keys, AS_OF]))
        features.append(look_up_features(view, index, entity_partition.select_rows(part, block)).to_arrow())
    return features if len(features) > 1 else features[0]


@ray.remote(num_cpus=_CPUS)
def _assemble_block(block: pa.Table, plans: list[Partitioning], features: list[list[Reference]]) -> pa.Table:
    rows = pl.DataFrame(block)
    of_views = []
    for plan, parts in zip(plans, features, strict=True):
        pieces = [pl.DataFrame(piece) for piece in ray.get(parts)]
        of_views.append(entity_partition.concat(pieces, entity_partition.assign_partitions(plan, rows)))
    return pl.concat([rows, *of_views], how="horizontal").to_arrow()


def _history(view: FeatureView, events: StoredPart | Reference) -> pl.DataFrame:
    """A history, built from a data file or fetched."""
    if isinstance(events, StoredPart):
        return build_history(view, pl.DataFrame(events.table(view.source_columns)))
    return pl.DataFrame(ray.get(events))
