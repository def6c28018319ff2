"""The annotations of a model: an Iceberg table beside its label log, which gets the label that follows from them.

Labels are logged by the log writer, as those of /feedback are: what reads the label log (verdict, monitor, report,
``rl.feedback``) needs to know nothing of labelers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import polars as pl
import pyarrow as pa

from cluster.actors import find_actor, get_result
from cluster.errors import DataError
from cluster.names import annotations_table, labels_table, log_writer_actor, predictions_table
from cluster.storage.tables import Tables
from cluster.values import Task
from deployments.protocol.arrow_columns import TIMESTAMP
from deployments.telemetry.prediction_log import batch_id, label_rows, to_ipc
from features.labeling.agreement import Agreement, measure_agreement
from features.labeling.annotations import (
    ANNOTATIONS_SCHEMA,
    AT,
    LABELER,
    changed_annotations,
    effective_labels,
    label_matrix,
    labels_to_log,
    no_annotations,
)
from features.types import INSTANT

_WRITER_S = 60.0
_REPLICA = "label"
"""Stands in the batch ids of labels by labelers where a replica's name stands in those of /feedback."""


def read_annotations(tables: Tables, model: str) -> pl.DataFrame:
    """Read all annotations of a model, with the columns of ANNOTATIONS_SCHEMA."""
    name = annotations_table(model)
    return pl.DataFrame(tables.read(name)).select(no_annotations().columns) if tables.exists(name) else no_annotations()


def measure_labelers(tables: Tables, model: str, task: Task) -> Agreement:
    """Measure how far the labelers of a model agree."""
    matrix, labelers = label_matrix(read_annotations(tables, model))
    return measure_agreement(matrix, labelers, numeric=task.kind == "regression")


def require_answered(tables: Tables, model: str, ids: pl.Series) -> None:
    """Check that rows are in the prediction log.

    Args:
        tables: Tables of the model.
        model: Name of the model.
        ids: Ids of the rows.

    Raises:
        DataError: An id is of no answered row.
    """
    if tables.latest(predictions_table(model)) is None:
        raise DataError("data.label_unknown_id", model=model, ids=ids.head(3).to_list(), count=len(ids))
    unknown = set(ids)
    for part in tables.stream(predictions_table(model), columns=["id"]):
        unknown.difference_update(part["id"].to_pylist())
    if unknown:
        raise DataError("data.label_unknown_id", model=model, ids=sorted(unknown)[:3], count=len(unknown))


def store_annotations(tables: Tables, model: str, labeler: str, labels: pl.DataFrame) -> int:
    """Store what a labeler says; labels that the labeler has given before are not stored again.

    Args:
        tables: Tables of the model.
        model: Name of the model.
        labeler: Who gave the labels.
        labels: ``id`` and ``label``.

    Returns:
        Number of annotations that were stored, all of them at once.
    """
    now = pl.lit(time.time_ns() // 1000).cast(INSTANT)
    given = labels.select("id", "label", pl.lit(labeler).alias(LABELER), now.alias(AT))
    new = changed_annotations(read_annotations(tables, model), given)
    if new.height:
        rows = new.to_arrow().cast(ANNOTATIONS_SCHEMA)
        tables.append(annotations_table(model), rows, key=f"{labeler}:{uuid4().hex}")
    return new.height


def log_labels(tables: Tables, model: str, task: Task) -> int:
    """Hand the labels that follow from the annotations, and that the label log lacks, to the log writer.

    It may be repeated at any time: after an interruption it continues, and without new annotations it does nothing.

    Args:
        tables: Tables of the model.
        model: Name of the model.
        task: Its task.

    Returns:
        Number of labels that were logged.

    Raises:
        DataError: The model has no log writer on this cluster.
    """
    effective = effective_labels(read_annotations(tables, model), task.kind)
    missing = labels_to_log(effective, _logged(tables, model, effective.get_column("id")))
    if missing.height:
        batch = batch_id(_REPLICA, uuid4().int)
        labels = pa.table({name: missing.get_column(name).to_list() for name in missing.columns})
        timed = labels.append_column("time", pa.nulls(missing.height, TIMESTAMP))
        data = to_ipc(label_rows(timed, time.time_ns() // 1000, batch))
        get_result(find_writer(model).append.remote("labels", batch, data), _WRITER_S)
    return missing.height


def commit_log(model: str) -> None:
    """Commit the answers that the log writer still holds. Raises DataError when the model has none."""
    get_result(find_writer(model).flush.remote(), _WRITER_S)


def find_writer(model: str) -> Any:
    """Return the log writer of a model. Raises DataError when this cluster has none."""
    writer = find_actor(log_writer_actor(model))
    if writer is None:
        raise DataError("data.no_log_writer", model=model)
    return writer


def _logged(tables: Tables, model: str, ids: pl.Series) -> pl.DataFrame:
    """Rows of the label log about some ids."""
    name, wanted = labels_table(model), ids.to_frame()
    empty = pl.DataFrame(schema={"id": pl.String, "label": pl.Float64, "received": INSTANT})
    if not tables.exists(name):
        return empty
    parts: Iterator[pa.Table] = tables.stream(name, columns=list(empty.columns))
    return pl.concat([empty, *(pl.DataFrame(part).join(wanted, on="id", how="semi") for part in parts)])
