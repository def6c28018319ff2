"""One task of a batch prediction: read a part of the input, score it, write one file."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from cluster.storage.parquet import READ_ROWS
from cluster.storage.scan import ScanPart
from cluster.values import Task
from features.encoder import Encoder
from features.offline.training_frame import OfflineFeatureReader, is_text
from features.sources.pseudonyms import Pseudonymizer
from trainers.scoring.onnx_scorer import open_session, output_arrays, score

_PAGE_BYTES = 1 << 20

STAGES = ("read", "features", "encode", "model", "write")


@dataclass(frozen=True)
class BatchJob:
    """What all tasks of a batch prediction share; the object store holds it once.

    Attributes:
        task: The model's task.
        encoder: The encoder of the feature set.
        model: The exported model.
        pseudonymize: Replaces personal values of the input.
        frame: Computes the features.
        schema: Columns of the input.
        passthrough: Columns of the input that the output contains in addition to the scores.
        folder: Where the tasks write their files.
        parts: Parts of the input, one for each task.
    """

    task: Task
    encoder: Encoder
    model: bytes
    pseudonymize: Pseudonymizer
    frame: OfflineFeatureReader
    schema: pa.Schema
    passthrough: tuple[str, ...]
    folder: str
    parts: tuple[ScanPart, ...]


class BatchTaskResult(NamedTuple):
    """The file that a task wrote, its rows, and the seconds of each stage."""

    file: str
    rows: int
    seconds: dict[str, float]


@ray.remote
def score_part(number: int, references: Sequence[ray.ObjectRef[Any]]) -> BatchTaskResult:
    """Score one part of a job.

    Args:
        number: Index of the part.
        references: A list with the reference of the BatchJob. Ray would fetch a bare reference again for each task.
    """
    (reference,) = references
    return _worker(reference).run(number)


# A worker process runs one job at a time and keeps its session between tasks.
@lru_cache(maxsize=1)
def _worker(reference: ray.ObjectRef[Any]) -> BatchWorker:
    return BatchWorker(ray.get(reference))


class BatchWorker:
    """Runs the tasks of a job in a worker process with one inference session."""

    def __init__(self, job: BatchJob) -> None:
        self._job = job
        self._model = open_session(job.model)
        columns = dict.fromkeys((*job.passthrough, *job.frame.required_columns(job.schema.names)))
        self._columns = [name for name in job.schema.names if name in columns]
        self._dictionary_columns = dictionary_columns(job)

    def run(self, number: int) -> BatchTaskResult:
        """Score part ``number`` of the job."""
        timer = _TaskTimer()
        # A retried task must not write into the file of an attempt that may still be running.
        name = f"part-{number:06d}-{uuid.uuid4().hex[:8]}.parquet"
        empty = pa.schema([self._job.schema.field(c) for c in self._columns]).empty_table()
        schema, rows = self._score(empty, _TaskTimer()).schema, 0
        with _writer(Path(self._job.folder) / name, schema) as writer:
            blocks = self._job.parts[number].read(self._columns, self._dictionary_columns)
            while (block := timer.measure("read", next, blocks, None)) is not None:
                timer.measure("write", writer.write_table, self._score(block, timer).cast(schema))
                rows += block.num_rows
        return BatchTaskResult(name, rows, timer.seconds)

    def _score(self, block: pa.Table, timer: _TaskTimer) -> pa.Table:
        job = self._job
        block = job.pseudonymize(block)
        frame = timer.measure("features", job.frame, block)
        arrays = timer.measure("encode", job.encoder.encode, frame)
        scores = timer.measure("model", score, self._model, arrays)
        output = block.select(list(job.passthrough))
        for name, values in output_arrays(job.task, scores).items():
            output = output.append_column(name, values)
        return output


class _TaskTimer:
    """Seconds of each stage of a task."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def measure(self, stage: str, work: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = work(*arguments)
        self.seconds[stage] += time.perf_counter() - start
        return result


def dictionary_columns(job: BatchJob) -> list[str]:
    """Text columns that the encoder takes as codes and a dictionary, without a look at every value."""
    if not job.frame.is_passthrough(job.schema):
        return []
    return [name for name in job.encoder.categories if is_text(job.schema.field(name).type)]


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Text is written with a dictionary, numbers uncompressed: compression would take half as long as a small model.

    One page per column of a row group, and no minimum and maximum of floats, halve the time of writing.
    """
    text = [field.name for field in schema if is_text(field.type)]
    bounded = [field.name for field in schema if not pa.types.is_floating(field.type)]
    return pq.ParquetWriter(
        path,
        schema,
        use_dictionary=text,
        compression="none",
        write_statistics=bounded,
        data_page_size=_PAGE_BYTES,
        max_rows_per_page=READ_ROWS,
        write_batch_size=READ_ROWS,
    )
