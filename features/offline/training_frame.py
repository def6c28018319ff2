"""The training frame: examples with their features as of their own time, as an Iceberg snapshot."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import polars as pl
import pyarrow as pa
import ray
import ray.data

from cluster.errors import DataError
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import Snapshot, Task
from features.definitions import Column, FeatureSet, FeatureView
from features.offline.distributed_join import point_in_time_join
from features.offline.point_in_time import EventIndex, index_events, look_up_features
from features.online.feature_reader import request_features
from features.sources.ingestion import columns_schema, default_parallelism
from features.sources.source import Examples
from features.split import SPLIT, Split
from features.types import AS_OF, INSTANT, arrow_type

LABEL = "label"
ID = "id"
LABEL_KNOWN_AT = "label_known_at"

_BLOCK_ROWS = 1 << 19
_AS_IT_IS: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True}


def frame_schema(features: FeatureSet) -> pa.Schema:
    """id, as_of, label, label_known_at, split, and every available feature."""
    moment = Column(name=AS_OF, kind="timestamp")
    head = [(ID, pa.string()), (AS_OF, columns_schema((moment,)).field(0).type), (LABEL, pa.float64())]
    head += [(LABEL_KNOWN_AT, head[1][1]), (SPLIT, pa.string())]
    return pa.schema(head + list(columns_schema(features.available_columns)))


def build_frame(
    features: FeatureSet,
    examples: Examples,
    task: Task,
    split: Split,
    landed: Mapping[str, Snapshot],
    tables: Tables,
    settings: Settings,
    name: str,
    until: datetime | None = None,
) -> Snapshot:
    """Join every example that is known ``until`` with its features; append to table ``name`` once.

    The same features over the same snapshots give the snapshot that was made before. Raises
    DataError when no example is left.
    """
    key = _key(features, examples, task, split, landed, until)
    if made := tables.snapshot_for_key(name, key):
        return made
    needed = {examples.id, examples.label_known_at, *(c.name for c in features.request)} | (
        {examples.event_time} - {""}
    )
    needed |= set(examples.label.meta.root_names())
    rows = tables.dataset(landed[examples.source], sorted(needed))
    label = partial(_labelled, features=features, examples=examples, task=task, split=split, until=until)
    # Few blocks: each view answers each of them. Large ones are not made larger.
    blocks = max(default_parallelism(), -(-landed[examples.source].rows // _BLOCK_ROWS))
    labelled = rows.repartition(blocks).map_batches(label, batch_size=None, batch_format="pyarrow").materialize()
    if not labelled.count():
        raise DataError(f"no example of source {examples.source!r} is labelled and inside the split", "check both")
    sources = {view.source: tables.parts(landed[view.source])[1] for view in features.views}
    joined = point_in_time_join(features.views, labelled.to_arrow_refs(), sources, default_parallelism())
    schema = frame_schema(features)
    typed = ray.data.from_arrow_refs(joined).map_batches(partial(_typed, schema=schema), **_AS_IT_IS)
    return tables.write(name, typed, schema, key, replace=True)


class OfflineFeatureReader:
    """Requests with all their features, as of each request's own time: block by block, in any worker of the cluster.

    Without ``as_of`` in the feature set, a request column of that name dates the rows.
    """

    def __init__(self, features: FeatureSet, landed: Mapping[str, Snapshot], settings: Settings) -> None:
        self._features = features
        self._prepared = _prepared(features, landed, settings)

    def required_columns(self, present: Sequence[str]) -> list[str]:
        """Columns that are needed of a table that has ``present``. Raises DataError when nothing dates the rows."""
        needed = [column.name for column in self._features.request]
        if self._features.as_of is not None or not self._prepared:
            return needed
        if AS_OF not in present:
            raise DataError(f"features are looked up as of each row's time, and no column {AS_OF!r} gives one")
        return [*needed, AS_OF]

    def __call__(self, block: pa.Table) -> pa.Table:
        if self.is_passthrough(block.schema):
            return block
        rows = pl.DataFrame(block.select(self.required_columns(block.column_names)))
        return _looked_up(self._features, request_features(self._features, rows), self._prepared).to_arrow()

    def is_passthrough(self, schema: pa.Schema) -> bool:
        """Whether the request columns are all the features there are, and need no cast: blocks come back as they are."""
        features = self._features
        return not (features.derived or features.views) and all(
            _encodes(column, schema.field(column.name).type) for column in features.columns
        )


def _encodes(column: Column, kind: pa.DataType) -> bool:
    """Whether features/encoder.py takes values of this type as they are."""
    if column.kind == "number":
        return bool(pa.types.is_floating(kind))
    if column.kind == "category":
        return is_text(kind.value_type if pa.types.is_dictionary(kind) else kind)
    return column.kind == "timestamp" or kind == arrow_type(column)


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def label_values(task: Task, label: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """The label as float64: class names become their index, unknown ones null."""
    if task.kind == "multiclass" and dtype == pl.String:
        return label.replace_strict(list(task.classes), range(len(task.classes)), default=None).cast(pl.Float64)
    return label.cast(pl.Float64)


def _require_labels(task: Task, given: pl.Series, source: str) -> None:
    """Raises DataError for a label that the task does not have. Null is none: such rows are no examples."""
    if task.kind == "multiclass" and given.dtype == pl.String:
        allowed: list[str] | list[float] = list(task.classes)
        known, wanted = given.drop_nulls(), f"one of {', '.join(task.classes)}"
    elif given.dtype.is_numeric() or given.dtype in (pl.Boolean, pl.Null):
        if task.kind not in ("binary", "multiclass"):
            return
        allowed, known = [float(n) for n in range(max(2, task.outputs))], given.drop_nulls().cast(pl.Float64)
        wanted = "0 or 1" if task.kind == "binary" else f"a position in {len(allowed)} classes"
    else:
        raise DataError(f"the label of source {source!r} is {given.dtype}, and {task.kind} needs numbers")
    strange = known.filter(~known.is_in(allowed))
    if len(strange):
        raise DataError(
            f"source {source!r} has rows with the label {strange[0]!r}, which is not {wanted}",
            "mend Task or Examples(label=...); a label that is null leaves its row out",
        )


def _labelled(
    block: pa.Table, features: FeatureSet, examples: Examples, task: Task, split: Split, until: datetime | None
) -> pa.Table:
    rows = build_examples(pl.DataFrame(block), features, examples, task, until)
    return rows.with_columns(split.split_expr().alias(SPLIT)).drop_nulls(SPLIT).to_arrow()


def _typed(block: pa.Table, schema: pa.Schema) -> pa.Table:
    return block.select(schema.names).cast(schema)


def build_examples(
    rows: pl.DataFrame, features: FeatureSet, examples: Examples, task: Task, until: datetime | None
) -> pl.DataFrame:
    """Labelled rows with request-time features, id, as_of, label and its known-at time."""
    given = rows.select(examples.label.alias(LABEL))[LABEL]
    _require_labels(task, given, examples.source)
    known = pl.col(examples.label_known_at).cast(INSTANT)
    head = rows.select(
        pl.col(examples.id).cast(pl.String).alias(ID),
        label_values(task, examples.label, given.dtype).alias(LABEL),
        known.alias(LABEL_KNOWN_AT),
    )
    dated = pl.col(examples.event_time or examples.label_known_at).cast(INSTANT).alias(AS_OF)
    request = rows if features.as_of is not None else rows.with_columns(dated)
    named = request_features(features, request)
    clash = [c for c in head.columns if c in named.columns]
    labelled = pl.concat([head, named.drop(clash)], how="horizontal").drop_nulls([LABEL, LABEL_KNOWN_AT])
    return labelled if until is None else labelled.filter(pl.col(LABEL_KNOWN_AT) <= pl.lit(until).cast(INSTANT))


def _prepared(features: FeatureSet, landed: Mapping[str, Snapshot], settings: Settings) -> list[ray.ObjectRef]:
    return [_prepare.remote(view, settings, landed[view.source]) for view in features.views]


def _looked_up(features: FeatureSet, rows: pl.DataFrame, prepared: list[ray.ObjectRef]) -> pl.DataFrame:
    views: list[EventIndex] = ray.get(prepared) if prepared else []
    found = [look_up_features(view, events, rows) for view, events in zip(features.views, views, strict=True)]
    return pl.concat([rows, *found], how="horizontal")


@ray.remote(num_cpus=0.5)
def _prepare(view: FeatureView, settings: Settings, snapshot: Snapshot) -> EventIndex:
    events = Tables(settings).read(snapshot.table, snapshot.id, columns=view.source_columns)
    return index_events(view, pl.DataFrame(events))


def _key(
    features: FeatureSet,
    examples: Examples,
    task: Task,
    split: Split,
    landed: Mapping[str, Snapshot],
    until: datetime | None,
) -> str:
    body: dict[str, Any] = {
        "features": features.content_hash,
        "sources": {name: snapshot.id for name, snapshot in sorted(landed.items())},
        "label": examples.label.meta.serialize(format="json"),
        "examples": [examples.source, examples.id, examples.label_known_at],
        "split": split.model_dump(mode="json"),
        "until": until.isoformat() if until else "",
    }
    # Frames of before these were in it keep their keys, where they are empty.
    body |= {"classes": task.classes} if task.classes else {}
    body |= {"event_time": examples.event_time} if examples.event_time else {}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
