"""The analysis of logged rows when windows close, as a Ray task: it reads them and the version's training rows.

Rows are read in parts and sampled by a hash of their ids (monitoring/samples/bottom_k_sample.py): memory stays bounded
at any traffic, and the same log always gives the same sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import ray

from cluster.actors import find_actor
from cluster.errors import DataError
from cluster.names import label_candidates_table, labels_table, log_writer_actor, predictions_table
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.times import epoch_microseconds
from cluster.values import Task
from deployments.telemetry.prediction_log import feature_frame
from features.manifest import Manifest
from features.split import SPLIT, TRAIN
from features.types import AS_OF, ID, LABEL
from monitoring.analysis.log_analysis import AnalysisRequest, AnalysisResult, analyze
from monitoring.analysis.segment_drift import ReferenceRows
from monitoring.samples.bottom_k_sample import BottomKSample
from monitoring.samples.logged_rows import LoggedRows
from rayloop.retraining.retrain_gains import with_gains
from trainers.scoring.python_scorer import score_bundle

_FLUSH_S = 60.0
# A label may arrive before its row is answered, but not a day earlier.
_EARLY_S = 86_400.0
# The year 9999, the last one that ISO 8601 can express.
_END_OF_TIME = 253_402_300_799.0
LABEL_CANDIDATES_SCHEMA = pa.schema(
    {"id": pa.string(), "version": pa.string(), "window": pa.timestamp("us", "UTC"), "worth": pa.float64()}
)
"""Schema of the table of predictions that are worth a label."""


@dataclass(frozen=True)
class LogAnalysisTask:
    """The task that the monitor runs: it reads the stores where it runs, and stores the label candidates."""

    settings: Settings

    def __call__(self, request: AnalysisRequest) -> AnalysisResult:
        """Analyze closed windows. Raises RayloopError when the version or its training frame no longer exists."""
        registry, tables = Registry(self.settings), Tables(self.settings)
        folder = registry.fetch(registry.version(request.model, request.version))
        manifest = Manifest.load(folder)
        _commit_log(request.model)
        past = reference_rows(tables, folder, manifest, request)
        answered = answered_rows(tables, manifest.task, request)
        live = live_rows(tables, manifest.task, request.model, answered)
        result = analyze(request, manifest.task, manifest.features.columns, past, live)
        result = with_gains(result, registry, tables, request, answered, live)
        _queue(tables, request, result)
        return result


def reference_rows(tables: Tables, folder: Path, manifest: Manifest, request: AnalysisRequest) -> ReferenceRows:
    """Sample the training frame of a version, training rows and held-out rows apart, with the version's scores."""
    snapshot = manifest.snapshot
    if not tables.has_snapshot(snapshot):
        raise DataError("data.frame_expired", table=snapshot.table, snapshot=snapshot.id)
    samples: dict[bool, BottomKSample] = {}
    for part in tables.stream(snapshot.table, snapshot.id):
        training = pc.equal(part[SPLIT], TRAIN)
        for side, rows in ((True, part.filter(training)), (False, part.filter(pc.invert(training)))):
            _offer(samples, side, rows, request.settings.rows)
    return ReferenceRows(*(_of_frame(samples[side].rows, folder) for side in (True, False)))


def answered_rows(tables: Tables, task: Task, request: AnalysisRequest) -> pa.Table:
    """Sample the answered rows of each window, as they were logged."""
    table, width = predictions_table(request.model), request.policy.window_s
    output = "probabilities" if task.kind == "multiclass" else "score"
    share = request.settings.rows_per_window(len(request.windows))
    samples: dict[float, BottomKSample] = {}
    span = (AS_OF, request.windows[0], request.until)
    columns = [ID, "key", "version", AS_OF, "at", output, "features"]
    for part in tables.stream(table, columns=columns, between=span):
        answered = part.filter(pc.and_(pc.equal(part["version"], request.version), pc.is_valid(part[output])))
        starts = np.floor(_seconds(answered[AS_OF]) / width) * width
        for start in set(np.unique(starts)) & set(request.windows):
            size = request.settings.rows if start >= request.since else share
            _offer(samples, float(start), answered.filter(pa.array(starts == start)), size)
    if not samples:
        raise DataError("data.no_logged_rows", model=request.model, version=request.version)
    return pa.concat_tables([sample.rows for sample in samples.values()]).combine_chunks()


def live_rows(tables: Tables, task: Task, model: str, answered: pa.Table) -> LoggedRows:
    """Answered rows with the labels that have arrived."""
    output = "probabilities" if task.kind == "multiclass" else "score"
    return _of_log(answered, output, _labels(tables, model, answered))


def _offer(samples: dict[Any, BottomKSample], key: object, rows: pa.Table, size: int) -> None:
    if rows.num_rows:
        samples.setdefault(key, BottomKSample(size, rows.schema)).update(rows, rows[ID])


def _of_frame(rows: pa.Table, folder: Path) -> LoggedRows:
    scores = score_bundle(folder, rows).astype(np.float64)
    return LoggedRows(rows, _ids(rows), _seconds(rows[AS_OF]), scores, rows[LABEL].to_numpy().astype(np.float64))


def _of_log(rows: pa.Table, output: str, labels: pl.DataFrame) -> LoggedRows:
    joined = pl.DataFrame(rows.select([ID])).join(labels, on=ID, how="left", maintain_order="left")
    values = joined.get_column(LABEL).fill_null(math.nan).to_numpy()
    scores = np.array(rows[output].to_pylist(), np.float64)
    return LoggedRows(feature_frame(rows), _ids(rows), _seconds(rows[AS_OF]), scores, values)


def _labels(tables: Tables, model: str, answered: pa.Table) -> pl.DataFrame:
    """Return ``id`` and newest ``label`` of the rows that have one; files with much older labels are not opened."""
    ids, since = pl.DataFrame(answered.select([ID])), float(_seconds(answered["at"]).min()) - _EARLY_S
    labels = [pl.DataFrame(schema={ID: pl.String, LABEL: pl.Float64, "received": pl.Datetime("us", "UTC")})]
    if tables.exists(labels_table(model)):
        span = ("received", since, _END_OF_TIME)
        parts: Iterator[pa.Table] = tables.stream(labels_table(model), columns=[ID, LABEL, "received"], between=span)
        labels += [pl.DataFrame(part).join(ids, on=ID, how="semi") for part in parts]
    return pl.concat(labels, how="vertical_relaxed").sort("received").unique(ID, keep="last").select(ID, LABEL)


def _queue(tables: Tables, request: AnalysisRequest, result: AnalysisResult) -> None:
    """Store the label candidates, once for each window."""
    if not result.label_candidates:
        return
    rows = [
        {"id": w.id, "version": request.version, "window": epoch_microseconds(request.window), "worth": w.expected_loss}
        for w in result.label_candidates
    ]
    key = f"{request.version}@{request.window:.0f}"
    tables.append(label_candidates_table(request.model), pa.Table.from_pylist(rows, LABEL_CANDIDATES_SCHEMA), key)


def _commit_log(model: str) -> None:
    """Commit the log's pending rows: windows close before their last rows are on disk."""
    if ray.is_initialized() and (writer := find_actor(log_writer_actor(model))) is not None:
        ray.get(writer.flush.remote(), timeout=_FLUSH_S)


def _ids(rows: pa.Table) -> np.ndarray:
    return np.asarray(rows[ID].to_pylist(), object)


def _seconds(when: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(when.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy() / 1e6)
