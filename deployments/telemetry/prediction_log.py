"""The prediction and label log as tables. Pure.

Predictions, one row for each predicted row. ``features`` is a struct of the feature frame, so that no feature's name
can collide with the log's own columns; ``features_of`` gives the frame back.

    id, request, row        row id (labels come back by it), request id, index within the request
    key                     what the split deals by: the routing key, else the request id
    batch                   the replica's batch it came in; what makes a batch that is sent twice count once
    rollout, share          the rollout that was on, and each challenger's share at the time; null without one, and for
                            what came while a shadow was full and no copies were taken
    champion_share          what the challengers left to the champion
    forced                  whether a header named the variant: the split then had no say
    assigned, variant       who should have answered by the split, and who did
    version, as_of, at      version that answered (the champion's when nobody did); time of the features; wall clock
    challenger_version      version of the challenger that was asked; null when none was
    latency_ms              milliseconds the answering variant spent on features and model; champion_latency_ms and
                            challenger_latency_ms what each took that was asked
    error, champion_error   why the challenger, or the champion, failed; null when it did not
    score | probabilities, predicted         what was answered; the former for binary and regression
    champion_*, challenger_*                 what each variant said, where it was asked
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.names import CHALLENGER, Variant
from cluster.values import Task
from deployments.protocol.arrow_columns import TIMESTAMP
from deployments.protocol.open_inference import predicted_classes

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
}
_SCORES = ("", "champion_", "challenger_")
LABEL_COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "label": pa.float64(),
    "time": TIMESTAMP,
    "received": TIMESTAMP,
    "batch": pa.string(),
}


@dataclass(frozen=True, slots=True)
class PredictionBatch:
    """One or several requests, and what came of them all alike.

    ``requests``, ``keys``, ``forced`` and ``sizes`` (rows) have an entry a request; ``frame`` is the champion's feature frame
    of all their rows; scores as contracts.Task says. A latency is None where a variant was not asked, or failed.
    """

    requests: Sequence[str]
    keys: Sequence[str]
    forced: Sequence[bool]
    sizes: Sequence[int]
    frame: pa.Table
    task: Task
    champion_version: str
    version: str
    assigned: Variant
    variant: Variant
    at_us: int
    champion_latency_ms: float | None
    challenger_latency_ms: float | None = None
    rollout: str | None = None
    share: float | None = None
    champion_share: float | None = None
    challenger_version: str | None = None
    champion: np.ndarray | None = None
    challenger: np.ndarray | None = None
    error: str | None = None
    champion_error: str | None = None

    @property
    def scores(self) -> np.ndarray | None:
        """What was answered; None when nobody could."""
        return self.challenger if self.variant == CHALLENGER else self.champion

    @property
    def latency_ms(self) -> float | None:
        """What the answering variant took."""
        return self.challenger_latency_ms if self.variant == CHALLENGER else self.champion_latency_ms


def prediction_rows(answers: Sequence[PredictionBatch], batch: str) -> pa.Table:
    """Log rows of answers that share a champion version, hence a feature set and a task."""
    rows = [answer.frame.num_rows for answer in answers]
    sizes = [size for answer in answers for size in answer.sizes]
    requests = [request for answer in answers for request in answer.requests]
    frame = pa.concat_tables([answer.frame for answer in answers]).combine_chunks()
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "id": row_ids(requests, sizes),
        "request": _spread(requests, sizes, pa.string()),
        "key": _spread(list(chain.from_iterable(a.keys for a in answers)), sizes, pa.string()),
        "forced": _spread(list(chain.from_iterable(a.forced for a in answers)), sizes, pa.bool_()),
        "row": pa.array(_within(sizes)),
        "batch": _spread([batch], [sum(rows)], pa.string()),
        "as_of": frame.column("as_of"),
        "at": _spread([a.at_us for a in answers], rows, TIMESTAMP),
    }
    for name, kind in PREDICTION_COLUMNS.items():
        if name not in columns:
            columns[name] = _spread([getattr(a, name) for a in answers], rows, kind)
    task = answers[0].task
    for prefix, of in zip(_SCORES, ("scores", "champion", "challenger"), strict=True):
        columns |= _scores(task, prefix, [getattr(a, of) for a in answers], rows)
    return pa.table(columns | {"features": _struct(frame)})


def label_rows(rows: pa.Table, received_us: int, batch: str) -> pa.Table:
    """Log rows of parsed feedback (feedback.parse_feedback)."""
    stamped = rows.append_column("received", pa.array([received_us] * rows.num_rows, TIMESTAMP))
    return stamped.append_column("batch", pa.array([batch] * rows.num_rows, pa.string()))


def feature_frame(rows: pa.Table) -> pa.Table:
    """The feature frame of logged predictions, ``as_of`` included."""
    frame = pa.Table.from_struct_array(rows.column("features").combine_chunks())
    return frame.append_column("as_of", rows.column("as_of"))


def row_ids(requests: Sequence[str], sizes: Sequence[int]) -> pa.Array:
    """Ids of requests' rows, by which labels are joined: of a request of one row its own, of others its own and the row."""
    if all(size == 1 for size in sizes):
        return pa.array(requests, pa.string())
    numbered = pc.binary_join_element_wise(
        _spread(requests, sizes, pa.string()), pa.array(_within(sizes)).cast(pa.string()), "/"
    )
    alone = pa.array(np.repeat(np.equal(sizes, 1), sizes))
    return pc.if_else(alone, _spread(requests, sizes, pa.string()), numbered)


def batch_id(replica: str, number: int) -> str:
    """Name of a replica's batch; ``replica_of`` gives the replica back."""
    return f"{replica}:{number}"


def batch_replica(batch: str) -> str:
    return batch.rpartition(":")[0]


def to_ipc(rows: pa.Table) -> bytes:
    """An Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def from_ipc(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()


def _spread(values: Sequence[Any], sizes: Sequence[int], kind: pa.DataType) -> pa.Array:
    """One value a request, or an answer, to one a row. What all say alike, as nothing of a rollout without one, costs little."""
    first = values[0] if values else None
    if all(value == first for value in values):
        return pa.repeat(pa.scalar(first, kind), sum(sizes))
    return pa.array(values, kind).take(np.repeat(np.arange(len(values)), sizes))


def _within(sizes: Sequence[int]) -> np.ndarray:
    """Each row's place within its request, int64 [sum of sizes]."""
    ends = np.cumsum(sizes, dtype=np.int64)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - np.asarray(sizes, np.int64), sizes)


def _scores(task: Task, prefix: str, scores: list[np.ndarray | None], sizes: list[int]) -> dict[str, pa.Array]:
    blocks = [_block(task, block, size) for block, size in zip(scores, sizes, strict=True)]
    joined = np.concatenate(blocks) if blocks else np.empty(0)
    missing = np.isnan(joined if joined.ndim == 1 else joined[:, 0])
    if task.kind != "multiclass":
        return {f"{prefix}score": pa.array(joined, pa.float64(), mask=missing)}
    names = [None if gone else name for gone, name in zip(missing, predicted_classes(task, joined), strict=True)]
    rows = [None if gone else row for gone, row in zip(missing, joined.tolist(), strict=True)]
    columns = {f"{prefix}probabilities": pa.array(rows, _PROBABILITIES)}
    return columns if prefix else columns | {"predicted": pa.array(names, pa.string())}


def _block(task: Task, scores: np.ndarray | None, size: int) -> np.ndarray:
    if scores is not None:
        return scores
    return np.full((size, task.outputs) if task.kind == "multiclass" else size, math.nan)


def _struct(frame: pa.Table) -> pa.Array:
    features = frame.drop_columns(["as_of"])
    struct = features.to_struct_array()
    return struct.combine_chunks() if isinstance(struct, pa.ChunkedArray) else struct
