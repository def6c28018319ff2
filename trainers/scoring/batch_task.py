"""What one task of a batch prediction does: read a part, score it, write one file."""

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
from trainers.scoring.onnx_scorer import outputs, score, session

_PAGE_BYTES = 1 << 20

STAGES = ("read", "features", "encode", "model", "write")


@dataclass(frozen=True)
class Job:
    """All that the tasks share; it lies in the object store once. ``folder`` is where their files go."""

    task: Task
    encoder: Encoder
    model: bytes
    shield: Pseudonymizer
    frame: OfflineFeatureReader
    schema: pa.Schema
    kept: tuple[str, ...]
    folder: str
    parts: tuple[ScanPart, ...]


class Receipt(NamedTuple):
    """What a task has written, and the seconds that each stage took."""

    file: str
    rows: int
    seconds: dict[str, float]


@ray.remote
def score_part(number: int, shared: Sequence[ray.ObjectRef]) -> Receipt:
    """Score part ``number`` of the job behind the reference in ``shared``: in a list, so that Ray does not fetch it for each task."""
    (reference,) = shared
    return _loaded(reference).run(number)


# A worker process works for one job at a time; it keeps that one's session.
@lru_cache(maxsize=1)
def _loaded(reference: ray.ObjectRef) -> Worker:
    return Worker(ray.get(reference))


class Worker:
    """A job in a worker process, its model ready to score."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._model = session(job.model)
        needed = dict.fromkeys((*job.kept, *job.frame.required_columns(job.schema.names)))
        self._columns = [name for name in job.schema.names if name in needed]
        self._coded = _coded(job)

    def run(self, number: int) -> Receipt:
        clock = _Clock()
        # A task that is repeated must not write into the file of the one that may still be running.
        name = f"part-{number:06d}-{uuid.uuid4().hex[:8]}.parquet"
        empty = pa.schema([self._job.schema.field(c) for c in self._columns]).empty_table()
        schema, rows = self._scored(empty, _Clock()).schema, 0
        with _writer(Path(self._job.folder) / name, schema) as writer:
            blocks = self._job.parts[number].read(self._columns, self._coded)
            while (block := clock.timed("read", next, blocks, None)) is not None:
                scored = self._scored(block, clock)
                clock.timed("write", writer.write_table, scored.cast(schema))
                rows += block.num_rows
        return Receipt(name, rows, clock.seconds)

    def _scored(self, block: pa.Table, clock: _Clock) -> pa.Table:
        job = self._job
        block = job.shield(block)
        frame = clock.timed("features", job.frame, block)
        arrays = clock.timed("encode", job.encoder.encode, frame)
        scores = clock.timed("model", score, self._model, arrays)
        written = block.select(list(job.kept))
        for name, values in outputs(job.task, scores).items():
            written = written.append_column(name, values)
        return written


class _Clock:
    """Seconds of each stage of a task."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def timed(self, stage: str, work: Callable[..., Any], *arguments: Any) -> Any:
        began = time.perf_counter()
        done = work(*arguments)
        self.seconds[stage] += time.perf_counter() - began
        return done


def _coded(job: Job) -> list[str]:
    """Columns that the encoder takes as codes and a dictionary, which saves it from looking at every value."""
    if not job.frame.is_passthrough(job.schema):
        return []
    return [name for name in job.encoder.categories if is_text(job.schema.field(name).type)]


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Text is written with a dictionary, numbers as they are: to compress them would take half as long as a small model does.

    One page for a column of a row group, and no smallest and largest value of floats, halve the time that writing takes.
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
