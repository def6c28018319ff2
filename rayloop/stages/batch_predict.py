"""Batch prediction: a table of requests in, the same table with scores out, on all cores of the cluster.

The table is cut into parts (cluster/storage/parquet.py); a task reads its part a few rows at a time, computes features, scores
them, and writes one Parquet file. No row passes through the object store, and no process ever holds more than a few
tens of thousands of rows, however large the table is.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import ray
from ray.exceptions import RayError, RaySystemError

from cluster.errors import DataError, RayloopError
from cluster.storage.scan import ScanPlan, plan_scan
from cluster.values import ModelVersion, Snapshot
from features.manifest import MODEL_FILE, Manifest
from features.offline.training_frame import OfflineFeatureReader
from features.sources.pseudonyms import Pseudonymizer
from rayloop.context import ProjectContext
from rayloop.stages import steps
from trainers.scoring.batch_task import STAGES, BatchJob, BatchTaskResult, score_part
from trainers.scoring.onnx_scorer import output_names
from trainers.worker_errors import blamed, deliberate

RETRIES = 10
"""Times that a part is tried again whose worker or node has gone."""
UNDER_WAY = 1_000
"""Tasks at a time, and so the CPUs that are kept busy at most: each wait looks at all of them."""
_TELL_EVERY_S = 10.0
_REMOVALS = 3


class BatchPrediction(NamedTuple):
    """What was written, how long it took by the wall clock, and where the tasks' time went."""

    rows: int
    seconds: float
    stage_seconds: dict[str, float]

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds

    def __str__(self) -> str:
        total = sum(self.stage_seconds.values()) or 1.0
        shares = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in self.stage_seconds.items())
        return f"{self.rows:,} rows in {self.seconds:.1f} s, {self.rows_per_second:,.0f} rows/s ({shares})"


def predict(
    context: ProjectContext, version: ModelVersion, table: str, out: str, keep: Sequence[str] = ()
) -> BatchPrediction:
    """Score ``table`` into the folder ``out``, with features as of each row's own time.

    ``table`` is a Parquet file, a folder of them, or a table of the catalog, "namespace.table" with or without
    "@snapshot"; ``keep`` names the columns that are written beside the scores, all by default. Raises DataError when
    there is no such table, or no row in it, a column is missing, or ``out`` holds something already; ``out`` is there when all of it is.
    """
    began = time.perf_counter()
    bundle = context.registry.fetch(version)
    manifest = Manifest.load(bundle)
    rows = plan_scan(table, context.tables, int(ray.cluster_resources().get("CPU", 1)))
    if not rows.parts:
        raise DataError(f"{rows.name} has no rows", "there is nothing to score")
    kept = _kept(rows, manifest, keep)
    with _folder(Path(out)) as folder:
        frame = OfflineFeatureReader(manifest.features, _landed(context, manifest), context.settings)
        model = (bundle / MODEL_FILE).read_bytes()
        shield = Pseudonymizer.for_columns(manifest.features.request, context.settings)
        job = BatchJob(
            manifest.task, manifest.encoder, model, shield, frame, rows.schema, kept, str(folder), tuple(rows.parts)
        )
        receipts = _run(context, job, rows)
        _keep_only(folder, {receipt.file for receipt in receipts})
    spent = {stage: sum(receipt.seconds[stage] for receipt in receipts) for stage in STAGES}
    scored = BatchPrediction(sum(receipt.rows for receipt in receipts), time.perf_counter() - began, spent)
    context.progress(f"{rows.name} scored with {version}, written to {out}: {scored}")
    return scored


def _run(context: ProjectContext, job: BatchJob, rows: ScanPlan) -> list[BatchTaskResult]:
    """Score every part; says how far it is every few seconds."""
    began = told = time.monotonic()
    receipts: list[BatchTaskResult] = []
    for receipt in _receipts(job):
        receipts.append(receipt)
        if (now := time.monotonic()) - told > _TELL_EVERY_S:
            done, told = sum(r.rows for r in receipts), now
            context.progress(f"{done:,} of {rows.rows:,} rows, {done / (now - began):,.0f} rows/s")
    return receipts


def _receipts(job: BatchJob) -> Iterator[BatchTaskResult]:
    """A receipt for each part, as its task ends. Raises what a task raised on purpose as itself, else RayloopError.

    Plain tasks: Ray Data, over rows as few as these, would look ten times a second which have ended, and cores wait meanwhile.
    """
    shared, numbers = [ray.put(job)], iter(range(len(job.parts)))
    task = score_part.options(max_retries=RETRIES, retry_exceptions=[RaySystemError], scheduling_strategy="SPREAD")
    waiting: list[ray.ObjectRef] = []
    try:
        while True:
            waiting += [task.remote(number, shared) for number in islice(numbers, UNDER_WAY - len(waiting))]
            if not waiting:
                return
            (done,), waiting = ray.wait(waiting)
            yield ray.get(done)
    except RayError as error:
        told = f"a part could not be scored: {blamed(str(error))}"
        raise deliberate(str(error)) or RayloopError(told, "its log is in the Ray dashboard") from error
    finally:
        for left in waiting:
            ray.cancel(left)


def _kept(rows: ScanPlan, manifest: Manifest, keep: Sequence[str]) -> tuple[str, ...]:
    """The columns to write. Raises DataError for a column that is needed and missing, or that a score would hide."""
    present = rows.schema.names
    missing = [name for name in (*(c.name for c in manifest.features.request), *keep) if name not in present]
    if missing:
        raise DataError(f"{rows.name} lacks the columns {', '.join(missing)}", f"it has {', '.join(present)}")
    kept = tuple(keep) or tuple(present)
    hidden = [name for name in output_names(manifest.task) if name in kept]
    if hidden:
        raise DataError(
            f"{rows.name} has a column {hidden[0]!r} already, where the model's output goes",
            "leave it out by naming with --keep what to write",
        )
    return kept


def _landed(context: ProjectContext, manifest: Manifest) -> dict[str, Snapshot]:
    return steps.latest_snapshots(context) if manifest.features.views else {}


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place when the body has ended, and vanishes when it fails."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not an empty folder", "name another one, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
    partial.mkdir()
    try:
        yield partial
        partial.rename(out)
    except BaseException:
        # Tasks that are not told yet that it is over may still put a file into it.
        for _ in range(_REMOVALS):
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _keep_only(folder: Path, files: set[str]) -> None:
    """Remove what a task wrote that died before it could report; its repetition wrote the part again."""
    present = {path.name for path in folder.iterdir()}
    if absent := files - present:
        raise DataError(
            f"{len(absent)} files of {folder} are not to be seen from here", "write to a folder that all machines share"
        )
    for name in present - files:
        (folder / name).unlink()
