"""The training frame: examples with their features as of their own times, as an Iceberg snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import polars as pl
import pyarrow as pa
import ray
import ray.data

from cluster.errors import DataError
from cluster.fingerprint import json_fingerprint
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import Snapshot, Task
from features.definitions import Column, FeatureSet, FeatureView
from features.derived_columns import joined_features, request_features
from features.offline.block_purge import purge_blocks
from features.offline.distributed_join import point_in_time_join
from features.offline.example_rows import CorrectionRows, build_examples
from features.offline.outcome_join import label_blocks, newest_known
from features.offline.point_in_time import EventIndex, index_events, look_up_features
from features.offline.purge import Purged, assign_parts
from features.outcomes import LabelWithin
from features.sources.ingestion import WHOLE_BLOCKS, columns_schema, default_parallelism
from features.sources.source import Examples
from features.sources.stored_rows import find_corrections, read_rows, stored_parts
from features.split import SPLIT, Split
from features.types import AS_OF, ID, KNOWN_FROM, LABEL, LABEL_KNOWN_AT, arrow_type

_BLOCK_ROWS = 1 << 19
_PURGED = "rayloop.purged"
"""Property of a frame's snapshot: its Purged."""


def frame_schema(features: FeatureSet) -> pa.Schema:
    """Return the schema of a training frame: id, as_of, label, label_known_at, split, and every available feature."""
    time = arrow_type(Column(name=AS_OF, kind="timestamp"))
    head = [(ID, pa.string()), (AS_OF, time), (LABEL, pa.float64()), (LABEL_KNOWN_AT, time), (SPLIT, pa.string())]
    return pa.schema(head + list(columns_schema(features.available_columns)))


def build_frame(
    features: FeatureSet,
    examples: Examples,
    task: Task,
    split: Split,
    snapshots: Mapping[str, Snapshot],
    tables: Tables,
    name: str,
    until: datetime | None = None,
) -> Snapshot:
    """Join examples with their features, and write them as a snapshot of a table.

    The same features over the same snapshots return the existing frame.

    Args:
        features: The feature set.
        examples: Which rows are examples, and their label.
        task: What the model predicts.
        split: Which examples train, validate and test.
        snapshots: Snapshot of each source's table.
        tables: The catalog.
        name: Table of the frame.
        until: Use what was known at this time: leave out examples whose label became known later, and of a corrected
            row take the label that was known then. The features of a row are those that were known at its own time.

    Raises:
        DataError: No example is left, a label does not fit the task, or the split purges all rows of a part.
    """
    key = frame_key(features, examples, task, split, snapshots, until)
    if existing := tables.snapshot_for_key(name, key):
        return existing
    columns = {*examples.columns, *(c.name for c in features.request), *split.group}
    if isinstance(examples.label, LabelWithin):
        until = newest_known(tables, snapshots[examples.label.view.source], examples.label, until)
    corrections = find_corrections(tables, snapshots[examples.source])[0]
    columns |= {*corrections.key, KNOWN_FROM} if corrections else set()
    rows = tables.dataset(snapshots[examples.source], sorted(columns))
    shared = ray.put(CorrectionRows(corrections.key, corrections.rows(sorted(columns)))) if corrections else None
    label = partial(
        _label_block, features=features, examples=examples, task=task, split=split, until=until, shared=shared
    )
    # Few blocks, since each view is joined with each block; but large blocks do not get larger.
    blocks = max(default_parallelism(), -(-snapshots[examples.source].rows // _BLOCK_ROWS))
    labeled = rows.repartition(blocks).map_batches(label, batch_size=None, batch_format="pyarrow").materialize()
    if not labeled.count():
        raise DataError("data.no_examples", source=examples.source)
    refs = labeled.to_arrow_refs()
    if isinstance(examples.label, LabelWithin):
        events = stored_parts(tables, snapshots[examples.label.view.source])
        refs = label_blocks(refs, examples.label, events, default_parallelism())
    rows_left, purged = purge_blocks(refs, split)
    sources = {view.source: stored_parts(tables, snapshots[view.source]) for view in features.views}
    joined = point_in_time_join(features.views, rows_left, sources, default_parallelism())
    schema = frame_schema(features)
    typed = ray.data.from_arrow_refs(joined).map_batches(
        partial(finish_block, features=features, schema=schema), **WHOLE_BLOCKS
    )
    return tables.write(name, typed, schema, key, replace=True, properties={_PURGED: purged.model_dump_json()})


def purged_rows(tables: Tables, frame: Snapshot) -> Purged:
    """Return how many rows a frame's split purged; a frame from before rows were counted has none."""
    text = tables.snapshot_properties(frame).get(_PURGED)
    return Purged.from_stored(text) if text else Purged()


class OfflineFeatureReader:
    """Adds features to blocks of requests, as of each request's own time, in any worker of the cluster.

    Without ``as_of`` in the feature set, a request column of that name dates the rows.

    Args:
        features: The feature set.
        snapshots: Snapshot of each source's table.
        settings: Settings of the catalog.
    """

    def __init__(self, features: FeatureSet, snapshots: Mapping[str, Snapshot], settings: Settings) -> None:
        self._features = features
        self._indexes = [_index.remote(view, settings, snapshots[view.source]) for view in features.views]

    def required_columns(self, present: Sequence[str]) -> list[str]:
        """Return the columns to read from a table that has the columns ``present``.

        Raises:
            DataError: The features depend on time, and no column dates the rows.
        """
        columns = [column.name for column in self._features.request]
        if self._features.as_of is not None or not self._indexes:
            return columns
        if AS_OF not in present:
            raise DataError("data.rows_without_time", rows="all", column=AS_OF)
        return [*columns, AS_OF]

    def __call__(self, block: pa.Table) -> pa.Table:
        """Return every available feature of the rows of ``block``."""
        if self.is_passthrough(block.schema):
            return block
        rows = pl.DataFrame(block.select(self.required_columns(block.column_names)))
        features = self._features
        request = request_features(features, rows)
        views = zip(features.views, ray.get(self._indexes) if self._indexes else [], strict=True)
        view_features = [look_up_features(view, index, request) for view, index in views]
        return joined_features(features, pl.concat([request, *view_features], how="horizontal")).to_arrow()

    def is_passthrough(self, schema: pa.Schema) -> bool:
        """Whether the request columns are all features and need no cast, so that blocks are returned as they are."""
        features = self._features
        return not (features.derived or features.views) and all(
            _is_encodable(column, schema.field(column.name).type) for column in features.columns
        )


def _is_encodable(column: Column, kind: pa.DataType) -> bool:
    """Whether features/encoder.py accepts values of this type without a cast."""
    if column.kind == "number":
        return bool(pa.types.is_floating(kind))
    if column.kind == "category":
        return is_text(kind.value_type if pa.types.is_dictionary(kind) else kind)
    return column.kind == "timestamp" or kind == arrow_type(column)


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is text of either length."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _label_block(
    block: pa.Table,
    features: FeatureSet,
    examples: Examples,
    task: Task,
    split: Split,
    until: datetime | None,
    shared: ray.ObjectRef[CorrectionRows] | None,
) -> pa.Table:
    corrections = ray.get(shared) if shared else None
    rows = build_examples(pl.DataFrame(block), features, examples, task, until, split, corrections)
    return assign_parts(rows, split).to_arrow()


def finish_block(block: pa.Table, features: FeatureSet, schema: pa.Schema) -> pa.Table:
    """Derive what uses the joined features of a block, and cast it to the schema of a frame."""
    if features.joined_derived:
        block = joined_features(features, pl.DataFrame(block)).to_arrow()
    return block.select(schema.names).cast(schema)


@ray.remote(num_cpus=0.5)
def _index(view: FeatureView, settings: Settings, snapshot: Snapshot) -> EventIndex:
    return index_events(view, read_rows(Tables(settings), snapshot, view.source_columns))


def _label_key(label: pl.Expr | LabelWithin) -> str:
    if isinstance(label, LabelWithin):
        return f"{label.kind} {label.view.content_hash}"
    return label.meta.serialize(format="json")


def frame_key(
    features: FeatureSet,
    examples: Examples,
    task: Task,
    split: Split,
    snapshots: Mapping[str, Snapshot],
    until: datetime | None,
) -> str:
    """Fingerprint of all that determines a training frame; the arguments are those of ``build_frame``."""
    body: dict[str, Any] = {
        "features": features.content_hash,
        "sources": {name: snapshot.id for name, snapshot in sorted(snapshots.items())},
        "label": _label_key(examples.label),
        "examples": [examples.source, examples.id, examples.label_known_at],
        "split": split.model_dump(mode="json", exclude=None if split.group else {"group"}),
        "until": until.isoformat() if until else "",
    }
    # Frames that are older than these fields keep their keys, as long as the fields are empty.
    body |= {"classes": task.classes} if task.classes else {}
    body |= {"event_time": examples.event_time} if examples.event_time else {}
    # Frames from before late labels were purged have other rows.
    body |= {"purges": True} if split.purges else {}
    return json_fingerprint(body)
