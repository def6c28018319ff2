"""The weak frame: training rows with weak labels, in a table of their own beside the training frame.

The training frame has true labels only, so what reads it (validation, test, gate, profile, report) never sees a weak
one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

import polars as pl
import pyarrow as pa
import ray
import ray.data

from cluster.fingerprint import json_fingerprint
from cluster.storage.tables import Tables
from cluster.values import Snapshot, Task
from features.definitions import FeatureSet
from features.labeling.labeling_functions import WeakLabels
from features.labeling.weak_estimate import WeakEstimate, count_votes, estimate_weak_labels
from features.offline.distributed_join import Reference, point_in_time_join
from features.offline.training_frame import finish_block, frame_key, frame_schema
from features.offline.weak_rows import drop_groups, find_candidates, weigh_rows
from features.sources.ingestion import WHOLE_BLOCKS, default_parallelism
from features.sources.source import Examples
from features.sources.stored_rows import find_corrections, stored_parts
from features.split import SPLIT, TRAIN, Split
from features.types import ID, KNOWN_FROM, LABEL, WEIGHT

_CPUS = 0.5
_ESTIMATE = "rayloop.weak_labels"
"""Property of a weak frame's snapshot: its WeakEstimate."""


def weak_table(frame_table: str) -> str:
    """Return the name of the weak frame's table; as its name begins with the frame's, erasure finds it."""
    return f"{frame_table}_weak"


def build_weak_frame(
    features: FeatureSet,
    examples: Examples,
    task: Task,
    split: Split,
    snapshots: Mapping[str, Snapshot],
    tables: Tables,
    frame: Snapshot,
    until: datetime | None = None,
) -> Snapshot:
    """Give the training rows without a label a weak one, and write them as a snapshot of a table.

    The accuracies of the labeling functions are estimated on all training rows, with true labels where there are some.

    Args:
        features: The feature set.
        examples: Which rows are examples, and the labeling functions.
        task: What the model predicts.
        split: Which rows train.
        snapshots: Snapshot of each source's table.
        tables: The catalog.
        frame: The training frame of the same features, snapshots and time.
        until: Use what was known at this time.

    Raises:
        DataError: No row gets a weak label, or the accuracies do not follow from the votes.
    """
    weak, name = examples.weak, weak_table(frame.table)
    assert weak is not None
    key = json_fingerprint(
        {"frame": frame_key(features, examples, task, split, snapshots, until), "weak": weak.content_hash}
    )
    if existing := tables.snapshot_for_key(name, key):
        return existing
    rows = _find_rows(features, examples, task, split, snapshots, tables, until)
    views = {view.source: stored_parts(tables, snapshots[view.source]) for view in features.views}
    joined = point_in_time_join(features.views, rows, views, default_parallelism())
    finish = partial(finish_block, features=features, schema=frame_schema(features))
    blocks = ray.data.from_arrow_refs(joined).map_batches(finish, **WHOLE_BLOCKS).materialize()
    columns = [*weak.input_columns, LABEL, SPLIT]
    true = [_count_true(part, weak, task) for part in tables.stream(frame.table, frame.id, columns=columns)]
    counted = ray.get([_count.remote(block, weak, task) for block in blocks.to_arrow_refs()])
    estimated = estimate_weak_labels(weak, task, [*true, *(each for each in counted if each is not None)])
    schema = frame_schema(features).append(pa.field(WEIGHT, pa.float64()))
    weigh = partial(_weigh_block, weak=weak, task=task, posteriors=estimated.posteriors, schema=schema)
    labeled = blocks.map_batches(weigh, **WHOLE_BLOCKS)
    properties = {_ESTIMATE: estimated.estimate.model_dump_json()}
    return tables.write(name, labeled, schema, key, replace=True, properties=properties)


def weak_estimate(tables: Tables, weak_frame: Snapshot) -> WeakEstimate:
    """Return what is known of the functions that labeled a weak frame."""
    return WeakEstimate.from_stored(tables.snapshot_properties(weak_frame)[_ESTIMATE])


def _find_rows(
    features: FeatureSet,
    examples: Examples,
    task: Task,
    split: Split,
    snapshots: Mapping[str, Snapshot],
    tables: Tables,
    until: datetime | None,
) -> list[Reference]:
    """Blocks of training rows without a true label."""
    source = snapshots[examples.source]
    corrections = find_corrections(tables, source)[0]
    columns = {*examples.columns, *(c.name for c in features.request), *split.group}
    columns |= {KNOWN_FROM} if corrections else set()
    labeled = pl.Series(ID, [], pl.String)
    if corrections and isinstance(examples.label, pl.Expr):
        further = corrections.rows(sorted({*corrections.key, *columns}))
        labeled = further.filter(examples.label.is_not_null())[examples.id].cast(pl.String)
    rows = tables.dataset(source, sorted(columns)).repartition(default_parallelism()).materialize()
    find: Any = _find.options(num_returns=2)
    found = [find.remote(block, features, examples, task, split, until, labeled) for block in rows.to_arrow_refs()]
    blocks = [block for block, _ in found]
    if split.group and split.purges:
        groups = ray.put(pl.concat(ray.get([each for _, each in found])).unique())
        blocks = [_drop.remote(block, groups) for block in blocks]
    return blocks


@ray.remote(num_cpus=_CPUS)
def _find(
    block: pa.Table,
    features: FeatureSet,
    examples: Examples,
    task: Task,
    split: Split,
    until: datetime | None,
    labeled: pl.Series,
) -> tuple[pa.Table, pl.Series]:
    rows, groups = find_candidates(pl.DataFrame(block), features, examples, task, split, until, labeled)
    return rows.to_arrow(), groups


@ray.remote(num_cpus=_CPUS)
def _drop(block: pa.Table, groups: pl.Series) -> pa.Table:
    return drop_groups(pl.DataFrame(block), groups).to_arrow()


@ray.remote(num_cpus=_CPUS)
def _count(block: pa.Table, weak: WeakLabels, task: Task) -> pl.DataFrame | None:
    # Ray gives an empty block no columns.
    return count_votes(weak, task, pl.DataFrame(block)) if block.num_rows else None


def _count_true(part: pa.Table, weak: WeakLabels, task: Task) -> pl.DataFrame:
    return count_votes(weak, task, pl.DataFrame(part).filter(pl.col(SPLIT) == TRAIN), LABEL)


def _weigh_block(
    block: pa.Table, weak: WeakLabels, task: Task, posteriors: pl.DataFrame, schema: pa.Schema
) -> pa.Table:
    return weigh_rows(pl.DataFrame(block), weak, task, posteriors).to_arrow().select(schema.names).cast(schema)
