"""Schema and rows of the prediction log and the label log. Pure.

The reporter (reporter.py) buffers rows in each replica; the log writer (log_writer.py) writes them to the tables.

The prediction log has one row for each predicted row. ``features`` is a struct of the feature frame, so that no
feature's name can collide with the log's own columns; ``feature_frame`` restores the frame.

    id, request, row        row id (labels refer to it), request id, index within the request
    key                     key of the traffic split: the routing key, else the request id
    batch                   the replica's batch that contained the row; a batch that is sent twice counts once
    rollout, share          current rollout, and each challenger's share at the time; null without a rollout, and for
                            requests that were not copied because too many copies were in flight
    champion_share          what the challengers left to the champion
    forced                  whether a header chose the variant instead of the split
    assigned, variant       variant by the split, and the one that answered
    copied                  of requests assigned to the champion: "scored", "failed" or "unanswered" if a challenger was
                            sent a copy, "dropped" if it should have been, null if not
    version, as_of, at      version that answered (the champion's if none did); time of the features; wall clock
    challenger_version      version of the challenger that was called; null without one
    latency_ms              milliseconds that the answering variant spent on features and model; champion_latency_ms and
                            challenger_latency_ms those of each variant that was called
    error, champion_error   why the challenger, or the champion, failed; null when it did not
    score | probabilities, predicted         the answer; the former for binary and regression
    champion_*, challenger_*                 output of each variant that was called
    explanation             explanation of the answer as JSON (features/attributions/explanation.py) with a schema
                            version; null unless the request asked to store it
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.names import CHALLENGER, Variant
from cluster.values import Task
from deployments.analysis.validity.validity_evidence import Assignment
from deployments.protocol.arrow_columns import TIMESTAMP
from deployments.protocol.open_inference import predicted_classes

Copied = Literal["scored", "failed", "unanswered", "dropped"]
"""What became of the copy of a request: the challenger scored it, failed it, did not answer within its time limit (or
its connection was lost), or was not asked, for lack of budget."""

_PROBABILITIES = pa.list_(pa.float64())

PREDICTION_COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "request": pa.string(),
    "key": pa.string(),
    "row": pa.int64(),
    "batch": pa.string(),
    "rollout": pa.string(),
    "share": pa.float64(),
    "champion_share": pa.float64(),
    "forced": pa.bool_(),
    "assigned": pa.string(),
    "variant": pa.string(),
    "version": pa.string(),
    "challenger_version": pa.string(),
    "at": TIMESTAMP,
    "latency_ms": pa.float64(),
    "champion_latency_ms": pa.float64(),
    "challenger_latency_ms": pa.float64(),
    "error": pa.string(),
    "champion_error": pa.string(),
    "copied": pa.string(),
    "explanation": pa.string(),
}
_SCORES = {"": "scores", "champion_": "champion", "challenger_": "challenger"}


@dataclass(frozen=True, slots=True)
class PredictionBatch:
    """One or several requests with the same outcome, and their predictions."""

    requests: Sequence[str]
    """Request ids."""
    keys: Sequence[str]
    """Key of the traffic split, by request."""
    forced: Sequence[bool]
    """Whether a header chose the variant, by request."""
    sizes: Sequence[int]
    """Rows, by request."""
    frame: pa.Table
    """The champion's feature frame of all rows."""
    task: Task
    champion_version: str
    version: str
    """Version that answered."""
    assigned: Variant
    """Variant by the split."""
    variant: Variant
    """Variant that answered."""
    at_us: int
    """Wall clock, microseconds since the epoch."""
    champion_latency_ms: float | None
    """None if the champion was not called, or failed."""
    challenger_latency_ms: float | None = None
    """None if no challenger was called, or it failed, or scored a copy: copies travel in batches of their own."""
    rollout: str | None = None
    share: float | None = None
    """Each challenger's share of requests."""
    champion_share: float | None = None
    challenger_version: str | None = None
    champion: np.ndarray | None = None
    """The champion's scores, in the shape that cluster.values.Task describes."""
    challenger: np.ndarray | None = None
    """The challenger's scores."""
    error: str | None = None
    """Why the challenger failed."""
    champion_error: str | None = None
    copied: Copied | None = None
    explanations: Sequence[str] | None = None
    """Of each row, as JSON; None unless they are to be stored."""

    @property
    def scores(self) -> np.ndarray | None:
        """Scores of the answer; None when no variant could answer."""
        return self.challenger if self.variant == CHALLENGER else self.champion

    @property
    def latency_ms(self) -> float | None:
        """Latency of the answering variant."""
        return self.challenger_latency_ms if self.variant == CHALLENGER else self.champion_latency_ms


def count_assignments(batches: Sequence[PredictionBatch]) -> Counter[Assignment]:
    """Count the requests of rollouts that the split assigned."""
    counts: Counter[Assignment] = Counter()
    for batch in batches:
        if batch.rollout is not None and batch.share is not None and batch.champion_share is not None:
            fields = (batch.rollout, batch.share, batch.champion_share, batch.assigned, batch.challenger_version)
            counts[Assignment(*fields)] += len(batch.requests) - sum(batch.forced)
    return counts


def prediction_rows(batches: Sequence[PredictionBatch], batch: str) -> pa.Table:
    """Build log rows.

    Args:
        batches: Predictions of one champion version, hence with one feature set and task.
        batch: Id of the replica's batch.
    """
    rows = [item.frame.num_rows for item in batches]
    sizes = [size for item in batches for size in item.sizes]
    requests = [request for item in batches for request in item.requests]
    frame = pa.concat_tables([item.frame for item in batches]).combine_chunks()
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "id": row_ids(requests, sizes),
        "request": _spread(requests, sizes, pa.string()),
        "key": _spread(list(chain.from_iterable(item.keys for item in batches)), sizes, pa.string()),
        "forced": _spread(list(chain.from_iterable(item.forced for item in batches)), sizes, pa.bool_()),
        "row": pa.array(_row_numbers(sizes)),
        "batch": _spread([batch], [sum(rows)], pa.string()),
        "as_of": frame.column("as_of"),
        "explanation": _explanations(batches, sum(rows)),
        "at": _spread([item.at_us for item in batches], rows, TIMESTAMP),
    }
    for name, kind in PREDICTION_COLUMNS.items():
        if name not in columns:
            columns[name] = _spread([getattr(item, name) for item in batches], rows, kind)
    task = batches[0].task
    for prefix, of in _SCORES.items():
        columns |= _scores(task, prefix, [getattr(item, of) for item in batches], rows)
    return pa.table(columns | {"features": _struct(frame)})


def label_rows(rows: pa.Table, received_us: int, batch: str) -> pa.Table:
    """Build log rows of labels.

    Args:
        rows: Parsed feedback (feedback.parse_feedback).
        received_us: Time of arrival, microseconds since the epoch.
        batch: Id of the replica's batch.
    """
    timed = rows.append_column("received", pa.array([received_us] * rows.num_rows, TIMESTAMP))
    return timed.append_column("batch", pa.array([batch] * rows.num_rows, pa.string()))


def feature_frame(rows: pa.Table) -> pa.Table:
    """Restore the feature frame of logged predictions, with ``as_of``."""
    frame = pa.Table.from_struct_array(rows.column("features").combine_chunks())
    return frame.append_column("as_of", rows.column("as_of"))


def row_ids(requests: Sequence[str], sizes: Sequence[int]) -> pa.Array:
    """Build the row ids by which labels are joined.

    Args:
        requests: Request ids.
        sizes: Rows, by request.

    Returns:
        The request's id if it has one row, else "id/row".
    """
    if all(size == 1 for size in sizes):
        return pa.array(requests, pa.string())
    numbered = pc.binary_join_element_wise(
        _spread(requests, sizes, pa.string()), pa.array(_row_numbers(sizes)).cast(pa.string()), "/"
    )
    is_single = pa.array(np.repeat(np.equal(sizes, 1), sizes))
    return pc.if_else(is_single, _spread(requests, sizes, pa.string()), numbered)


def batch_id(replica: str, number: int) -> str:
    """Build the id of a replica's batch."""
    return f"{replica}:{number}"


def batch_replica(batch: str) -> str:
    """Return the replica of a batch id."""
    return batch.rpartition(":")[0]


def to_ipc(rows: pa.Table) -> bytes:
    """Encode rows as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def from_ipc(data: bytes) -> pa.Table:
    """Decode an Arrow IPC stream."""
    return pa.ipc.open_stream(data).read_all()


def _spread(values: Sequence[Any], sizes: Sequence[int], kind: pa.DataType) -> pa.Array:
    """Repeat each value for its rows. Equal values, such as nulls without a rollout, are cheap."""
    first = values[0] if values else None
    if all(value == first for value in values):
        return pa.repeat(pa.scalar(first, kind), sum(sizes))
    return pa.array(values, kind).take(np.repeat(np.arange(len(values)), sizes))


def _explanations(batches: Sequence[PredictionBatch], rows: int) -> pa.Array:
    if all(item.explanations is None for item in batches):
        return pa.nulls(rows, pa.string())
    texts: list[Sequence[str | None]] = [item.explanations or [None] * item.frame.num_rows for item in batches]
    return pa.array(list(chain.from_iterable(texts)), pa.string())


def _row_numbers(sizes: Sequence[int]) -> np.ndarray:
    """Index of each row within its request, int64 [sum of sizes]."""
    ends = np.cumsum(sizes, dtype=np.int64)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - np.asarray(sizes, np.int64), sizes)


def _scores(task: Task, prefix: str, scores: list[np.ndarray | None], sizes: list[int]) -> dict[str, pa.Array]:
    blocks = [_block(task, block, size) for block, size in zip(scores, sizes, strict=True)]
    joined = np.concatenate(blocks) if blocks else np.empty(0)
    missing = np.isnan(joined if joined.ndim == 1 else joined[:, 0])
    if task.kind != "multiclass":
        return {f"{prefix}score": pa.array(joined, pa.float64(), mask=missing)}
    columns = {f"{prefix}probabilities": pa.array(joined.tolist(), _PROBABILITIES, mask=missing)}
    if not prefix:
        columns["predicted"] = pa.array(predicted_classes(task, joined), pa.string(), mask=missing)
    return columns


def _block(task: Task, scores: np.ndarray | None, size: int) -> np.ndarray:
    if scores is not None:
        return scores
    return np.full((size, task.outputs) if task.kind == "multiclass" else size, math.nan)


def _struct(frame: pa.Table) -> pa.Array:
    struct = frame.drop_columns(["as_of"]).to_struct_array()
    return struct.combine_chunks() if isinstance(struct, pa.ChunkedArray) else struct
