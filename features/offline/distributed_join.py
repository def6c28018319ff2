"""The point-in-time join over a Ray cluster, for tables larger than memory and keys of any skew.

    deal_events   a data file, a view  ->  the view's history, by bucket (few events: left out, answer reads the files)
    deal_rows     a block, an entity   ->  keys and times of its rows, by bucket
    answer        a part of a view     ->  its events sorted and summed up; features of its rows, by block
    gather        a block              ->  its rows in their order, the features of all views beside them

Nothing is ever whole in one process: a task holds a data file, a block, or a part. What lies between the steps is in
Ray's object store, which spills to disk. docs/decisions/0021 says why it is not Ray Data's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import ray

from cluster.errors import DataError
from cluster.storage.iceberg_part import IcebergPart
from features.definitions import FeatureView
from features.events import entity_partition
from features.events.entity_partition import Partition, Partitioning
from features.events.event_history import build_history
from features.offline.point_in_time import build_index, look_up_features
from features.types import AS_OF

Reference = Any
"""A ray.ObjectRef; its type says nothing about what it refers to."""

_CPUS = 0.5

_Tally = list[tuple[int, np.ndarray]]
"""Of each bucket of a data file: events, and some of their known-at times."""


def point_in_time_join(
    views: Sequence[FeatureView],
    blocks: Sequence[Reference],
    sources: Mapping[str, Sequence[IcebergPart]],
    max_tasks: int,
) -> list[Reference]:
    """Blocks of rows (pyarrow tables with key columns and ``as_of``) with the views' features beside them.

    ``sources`` are the data files of each source, in order; ``at_once`` bounds the tasks under way, and with them
    memory. Row count, order and repeats are those of the blocks. Raises DataError for a source without rows; what
    pit.prepare and pit.lookup refuse is raised where the blocks are read.
    """
    crew = _Crew(max_tasks)
    counts = [entity_partition.bucket_count(_events(view, sources), len(views), max_tasks) for view in views]
    files = [_by_bucket(crew, view, sources[view.source], n) for view, n in zip(views, counts, strict=True)]
    asked = {key: _asked(crew, blocks, *key) for key in _entities(views, counts)}
    dealt = [_dealt(view, of_view) for view, of_view in zip(views, files, strict=True)]
    answers = [
        [_answers(crew, view, part, of_view, asked[view.entity.keys, how.buckets]) for part in how.partitions]
        for view, of_view, how in zip(views, files, dealt, strict=True)
    ]
    return [
        crew.run(_gather, 1, block, dealt, [[part[b] for part in of_view] for of_view in answers])[0]
        for b, block in enumerate(blocks)
    ]


class _Crew:
    """Runs tasks, no more than ``at_once`` at a time: the next one is not asked for before another one has ended."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._running: list[Reference] = []

    def run(self, task: Any, returns: int, *arguments: Any) -> list[Reference]:
        """References to the task's ``returns`` results."""
        if len(self._running) >= self._at_once:
            _, self._running = ray.wait(self._running, num_returns=1, fetch_local=False)
        made = task.options(num_returns=returns).remote(*arguments)
        made = made if returns > 1 else [made]
        self._running.append(made[0])
        return list(made)


def _events(view: FeatureView, sources: Mapping[str, Sequence[IcebergPart]]) -> int:
    files = sources[view.source]
    if not files:
        raise DataError(f"feature view {view.name!r}: source {view.source!r} has no rows", "land some first")
    return sum(file.rows for file in files)


def _entities(views: Sequence[FeatureView], counts: Sequence[int]) -> dict[tuple[tuple[str, ...], int], None]:
    return dict.fromkeys((view.entity.keys, count) for view, count in zip(views, counts, strict=True))


def _by_bucket(crew: _Crew, view: FeatureView, files: Sequence[IcebergPart], count: int) -> list[list[Any]]:
    """Of each data file a tally and the buckets; of a single bucket the file as it is, which is read where it is joined."""
    if count == 1:
        return [[None, file] for file in files]
    return [crew.run(_deal_events, 1 + count, file, view, count) for file in files]


def _dealt(view: FeatureView, files: list[list[Any]]) -> Partitioning:
    tallies = [tally for tally, *_ in files]
    if tallies[0] is None:
        return Partitioning(view.entity.keys, 1, (Partition(0),))
    return entity_partition.plan_partitions(view.entity.keys, *_tallied(ray.get(tallies)))


def _asked(crew: _Crew, blocks: Sequence[Reference], keys: tuple[str, ...], count: int) -> list[list[Reference]]:
    """The rows of each block by bucket of an entity."""
    if count == 1:
        return [[block] for block in blocks]
    return [crew.run(_deal_rows, count, block, keys, count) for block in blocks]


def _tallied(tallies: Sequence[_Tally]) -> tuple[list[int], dict[int, np.ndarray]]:
    """Events of each bucket, and known-at times drawn from it."""
    buckets = list(zip(*tallies, strict=True))
    events = [sum(n for n, _ in bucket) for bucket in buckets]
    return events, {b: np.concatenate([times for _, times in bucket]) for b, bucket in enumerate(buckets)}


def _answers(
    crew: _Crew, view: FeatureView, part: Partition, files: list[list[Any]], asked: list[list[Reference]]
) -> list[Reference]:
    """The part's features of each block's rows."""
    events = [file[1 + part.bucket] for file in files]
    rows = [block[part.bucket] for block in asked]
    # In lists, references are fetched one after the other, and never all of a large bucket at the same time.
    return crew.run(_answer, len(asked), view, part, events, rows)


@ray.remote(num_cpus=_CPUS)
def _deal_events(file: IcebergPart, view: FeatureView, count: int) -> Any:
    """A tally, and the history of each bucket."""
    known = _known(view, file)
    pieces = entity_partition.split_rows(known, entity_partition.assign_buckets(known, view.entity.keys, count), count)
    return [
        [(piece.height, entity_partition.sample_known_times(piece)) for piece in pieces],
        *(piece.to_arrow() for piece in pieces),
    ]


@ray.remote(num_cpus=_CPUS)
def _deal_rows(block: pa.Table, keys: tuple[str, ...], count: int) -> Any:
    rows = pl.DataFrame(block.select([*keys, AS_OF]))
    return [
        piece.to_arrow()
        for piece in entity_partition.split_rows(rows, entity_partition.assign_buckets(rows, keys, count), count)
    ]


@ray.remote(num_cpus=_CPUS)
def _answer(view: FeatureView, part: Partition, events: list[Any], rows: list[Reference]) -> Any:
    """Features of the part's rows, a table for each block."""
    known = entity_partition.select_events(view, part, (_known(view, piece) for piece in events))
    prepared = build_index(view, known)
    del known
    found = []
    for piece in rows:
        table: pa.Table = ray.get(piece)
        asked = pl.DataFrame(table.select([*view.entity.keys, AS_OF]))
        found.append(look_up_features(view, prepared, entity_partition.select_rows(part, asked)).to_arrow())
    return found if len(found) > 1 else found[0]


@ray.remote(num_cpus=_CPUS)
def _gather(block: pa.Table, dealt: list[Partitioning], answers: list[list[Reference]]) -> pa.Table:
    rows = pl.DataFrame(block)
    found = []
    for how, parts in zip(dealt, answers, strict=True):
        pieces = [pl.DataFrame(piece) for piece in ray.get(parts)]
        found.append(entity_partition.concat(pieces, entity_partition.assign_partitions(how, rows)))
    return pl.concat([rows, *found], how="horizontal").to_arrow()


def _known(view: FeatureView, events: IcebergPart | Reference) -> pl.DataFrame:
    """A history: made of a data file, or fetched."""
    if isinstance(events, IcebergPart):
        return build_history(view, pl.DataFrame(events.table(view.source_columns)))
    return pl.DataFrame(ray.get(events))
