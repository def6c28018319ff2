"""The training frame: examples with their features as of their own times, as an Iceberg snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

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
from features.offline.outcome_join import event_keys, label_blocks, newest_known
from features.offline.point_in_time import EventIndex, index_events, look_up_features
from features.offline.purge import Purged, assign_parts
from features.outcomes import LabelWithin
from features.sources.ingestion import WHOLE_BLOCKS, columns_schema, default_parallelism
from features.sources.source import Examples
from features.sources.stored_rows import find_corrections, read_rows, stored_parts
from features.split import SPLIT, Split, group_expr
from features.types import AS_OF, ID, INSTANT, KNOWN_FROM, LABEL, LABEL_KNOWN_AT, arrow_type

_BLOCK_ROWS = 1 << 19
_PURGED = "rayloop.purged"
"""Property of a frame's snapshot: its Purged."""
_PLACE = "__place"


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
        partial(_finish_block, features=features, schema=schema), **WHOLE_BLOCKS
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


def label_values(task: Task, label: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Convert the label to float64: class names become their index, unknown ones null."""
    if task.kind == "multiclass" and dtype == pl.String:
        return label.replace_strict(list(task.classes), range(len(task.classes)), default=None).cast(pl.Float64)
    return label.cast(pl.Float64)


def _require_labels(task: Task, labels: pl.Series, source: str) -> None:
    """Raise DataError for a label that the task does not have. Null is allowed: such rows are not examples."""
    if task.kind == "multiclass" and labels.dtype == pl.String:
        allowed: list[str] | list[float] = list(task.classes)
        known, expected = labels.drop_nulls(), f"one of {', '.join(task.classes)}"
    elif labels.dtype.is_numeric() or labels.dtype in (pl.Boolean, pl.Null):
        if task.kind not in ("binary", "multiclass"):
            return
        allowed, known = [float(n) for n in range(max(2, task.outputs))], labels.drop_nulls().cast(pl.Float64)
        expected = "0 or 1" if task.kind == "binary" else f"a position in {len(allowed)} classes"
    else:
        raise DataError(
            "data.label_type",
            label=f"the label of source {source!r}",
            type=str(labels.dtype),
            task=task.kind,
            source=source,
        )
    unknown = known.filter(~known.is_in(allowed))
    if len(unknown):
        raise DataError("data.unknown_label", source=source, label=unknown[0], expected=expected)


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


def _finish_block(block: pa.Table, features: FeatureSet, schema: pa.Schema) -> pa.Table:
    """Derive what uses the joined features, and cast."""
    if features.joined_derived:
        block = joined_features(features, pl.DataFrame(block)).to_arrow()
    return block.select(schema.names).cast(schema)


class CorrectionRows(NamedTuple):
    """The corrections of a source."""

    key: tuple[str, ...]
    """Columns that identify a row."""
    rows: pl.DataFrame
    """The further versions of its rows, with ``KNOWN_FROM``."""


def build_examples(
    rows: pl.DataFrame,
    features: FeatureSet,
    examples: Examples,
    task: Task,
    until: datetime | None,
    split: Split | None = None,
    corrections: CorrectionRows | None = None,
) -> pl.DataFrame:
    """Return the examples among the rows of a source, with id, as_of, label, label_known_at and request-time features.

    A corrected row is one example, in the place of its first version. Its label is the one that was known at ``until``,
    known at the earliest when its version was. Its time and request columns are those of the newest version that was
    known at that time, too, or of the first: what a request would have contained.

    Args:
        rows: Rows of the examples' source.
        features: The feature set.
        examples: Which columns hold id, label and times.
        task: What the model predicts.
        until: Leave out examples whose label became known later; None: none.
        split: Adds the column GROUP for a split by groups.
        corrections: Corrections of the source; ``rows`` then have the key, and ``KNOWN_FROM``.

    Raises:
        DataError: A label does not fit the task.
    """
    if corrections is None:
        labeled = _label_rows(rows, features, examples, task, split).drop_nulls([LABEL, LABEL_KNOWN_AT])
    else:
        first = rows.filter(pl.col(KNOWN_FROM).is_null()).with_row_index(_PLACE)
        places = first.select(_PLACE, *corrections.key)
        further = corrections.rows.join(places, on=list(corrections.key)).sort(KNOWN_FROM).select(first.columns)
        versions = pl.concat([first, further])
        whole = pl.concat(
            [versions.select(_PLACE, KNOWN_FROM), _label_rows(versions.drop(_PLACE), features, examples, task, split)],
            how="horizontal",
        )
        labeled = _newest_labels(whole, examples, until)
    return labeled if until is None else labeled.filter(pl.col(LABEL_KNOWN_AT) <= pl.lit(until).cast(INSTANT))


def _newest_labels(versions: pl.DataFrame, examples: Examples, until: datetime | None) -> pl.DataFrame:
    """Of the versions of each row, in the order in which they were known, take what was known."""
    landed = pl.col(KNOWN_FROM).is_null() | (pl.col(KNOWN_FROM) <= pl.lit(until).cast(INSTANT) if until else True)
    dated = versions.filter(landed).drop_nulls(AS_OF)
    is_known = pl.col(KNOWN_FROM).is_null() | (pl.col(KNOWN_FROM) <= pl.col(AS_OF))
    # Versions that were not known at their own time come first, the earliest of them last.
    unknown, sure = dated.filter(~is_known), dated.filter(is_known)
    chosen = pl.concat([unknown.reverse(), sure]).unique(_PLACE, keep="last", maintain_order=True)
    if isinstance(examples.label, LabelWithin):
        return chosen.sort(_PLACE).drop(_PLACE, KNOWN_FROM)
    is_label = pl.col(LABEL).is_not_null() & pl.col(LABEL_KNOWN_AT).is_not_null()
    known_at = pl.when(is_label).then(pl.max_horizontal(LABEL_KNOWN_AT, KNOWN_FROM))
    from_when = pl.coalesce(known_at, KNOWN_FROM)
    known = versions if until is None else versions.filter((from_when <= pl.lit(until).cast(INSTANT)).fill_null(True))
    labels = known.group_by(_PLACE, maintain_order=True).agg(
        pl.col(LABEL).last(), known_at.last().alias(LABEL_KNOWN_AT)
    )
    both = chosen.drop(LABEL, LABEL_KNOWN_AT).join(labels, on=_PLACE).sort(_PLACE).drop(_PLACE, KNOWN_FROM)
    return both.select(ID, LABEL, LABEL_KNOWN_AT, pl.exclude(ID, LABEL, LABEL_KNOWN_AT)).drop_nulls(
        [LABEL, LABEL_KNOWN_AT]
    )


def _label_rows(
    rows: pl.DataFrame, features: FeatureSet, examples: Examples, task: Task, split: Split | None
) -> pl.DataFrame:
    """All rows with id, as_of, label, label_known_at and request-time features."""
    dated = pl.col(examples.time_column).cast(INSTANT).alias(AS_OF)
    request = rows if features.as_of is not None else rows.with_columns(dated)
    request_columns = request_features(features, request)
    label = examples.label
    if isinstance(label, LabelWithin):
        known_at = (request_columns.get_column(AS_OF) + label.delay).alias(LABEL_KNOWN_AT)
        of_label: list[pl.Expr | pl.Series] = [pl.lit(0.0).alias(LABEL), known_at, *event_keys(label)]
    else:
        labels = rows.select(label.alias(LABEL))[LABEL]
        _require_labels(task, labels, examples.source)
        known = pl.col(examples.label_known_at).cast(INSTANT).alias(LABEL_KNOWN_AT)
        of_label = [label_values(task, label, labels.dtype).alias(LABEL), known]
    group = [group_expr(split.group)] if split and split.group else []
    head = rows.select(pl.col(examples.id).cast(pl.String).alias(ID), *of_label, *group)
    clash = [c for c in head.columns if c in request_columns.columns]
    return pl.concat([head, request_columns.drop(clash)], how="horizontal")


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
