"""Batch prediction: score a table with a registered version, on all CPUs of the cluster.

The table is split into parts (cluster/storage/scan.py); a task reads its part a few rows at a time, computes features,
scores them, and writes one Parquet file. No row passes through the object store, and no process has more than a few
tens of thousands of rows in memory, however large the table is.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RaySystemError

from cluster.errors import DataError, ProjectError, RayloopError
from cluster.storage.scan import ScanPlan, plan_scan
from cluster.values import ModelVersion
from features.definitions import require_present
from features.manifest import MODEL_FILE, Manifest
from features.offline.training_frame import OfflineFeatureReader
from features.python_models.bundle import is_python
from features.sources.pseudonyms import Pseudonymizer
from rayloop.context import ProjectContext
from rayloop.stages import feature_data
from trainers.scoring.batch_task import STAGES, BatchJob, BatchTaskResult, score_part
from trainers.scoring.onnx_scorer import output_names
from trainers.worker_errors import error_origin, unwrap_error

RETRIES = 10
"""How often a part is retried whose worker or node died."""
MAX_TASKS = 1_000
"""Tasks that run at the same time, and so the most CPUs that are used: each wait examines all of them."""
_REPORT_EVERY_S = 10.0
_REMOVALS = 3


class BatchPrediction(NamedTuple):
    """What a batch prediction wrote and how long it took."""

    rows: int
    seconds: float
    """Wall-clock time."""
    stage_seconds: dict[str, float]
    """Time of all tasks, by stage."""

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
    """Score a table, with features as of each row's own time.

    Args:
        context: The project.
        version: The version that scores.
        table: A Parquet file, a folder of them, or a table of the catalog: "namespace.table" or
            "namespace.table@snapshot".
        out: Folder for the scored Parquet files; it appears when all of them are complete.
        keep: Columns that are written next to the scores; default: all.

    Raises:
        DataError: The table does not exist or is empty, a column is missing, or ``out`` is not empty.
        ProjectError: The version is a Python model, which only its deployment scores with.
    """
    began = time.perf_counter()
    bundle = context.registry.fetch(version)
    manifest = Manifest.load(bundle)
    if is_python(bundle):
        raise ProjectError("project.python_batch", model=version.model, version=version.version)
    rows = plan_scan(table, context.tables, int(ray.cluster_resources().get("CPU", 1)))
    if not rows.parts:
        raise DataError("data.table_empty", table=rows.name)
    columns = columns_to_write(rows, manifest, keep)
    with output_folder(Path(out)) as folder:
        snapshots = feature_data.latest_snapshots(context) if manifest.features.views else {}
        job = BatchJob(
            manifest.task,
            manifest.encoder,
            (bundle / MODEL_FILE).read_bytes(),
            Pseudonymizer.for_columns(manifest.features.request, context.settings),
            OfflineFeatureReader(manifest.features, snapshots, context.settings),
            rows.schema,
            columns,
            str(folder),
            tuple(rows.parts),
        )
        results = run_tasks(context, job, rows)
        keep_only(folder, {result.file for result in results})
    spent = {stage: sum(result.seconds[stage] for result in results) for stage in STAGES}
    scored = BatchPrediction(sum(result.rows for result in results), time.perf_counter() - began, spent)
    context.progress(f"scored {rows.name} with {version} into {out}: {scored}")
    return scored


def run_tasks(context: ProjectContext, job: BatchJob, rows: ScanPlan) -> list[BatchTaskResult]:
    """Score every part; report progress every few seconds."""
    began = reported = time.monotonic()
    results: list[BatchTaskResult] = []
    for result in _task_results(job):
        results.append(result)
        if (now := time.monotonic()) - reported > _REPORT_EVERY_S:
            done, reported = sum(r.rows for r in results), now
            context.progress(f"{done:,} of {rows.rows:,} rows, {done / (now - began):,.0f} rows/s")
    return results


def _task_results(job: BatchJob) -> Iterator[BatchTaskResult]:
    """Yield each task's result as it ends. Raises a task's RayloopError as itself, anything else as a RayloopError.

    Plain tasks: with so few rows each, Ray Data polls ten times a second for tasks that ended, and CPUs idle.
    """
    shared, numbers = [ray.put(job)], iter(range(len(job.parts)))
    task = score_part.options(max_retries=RETRIES, retry_exceptions=[RaySystemError], scheduling_strategy="SPREAD")
    waiting: list[ray.ObjectRef[Any]] = []
    try:
        while True:
            waiting += [task.remote(number, shared) for number in islice(numbers, MAX_TASKS - len(waiting))]
            if not waiting:
                return
            (done,), waiting = ray.wait(waiting)
            yield ray.get(done)
    except RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, RayloopError):
            raise cause from error
        unexpected = RayloopError("rayloop.batch_task_failed", origin=error_origin(str(error)))
        raise unwrap_error(str(error)) or unexpected from error
    finally:
        for task_left in waiting:
            ray.cancel(task_left)


def columns_to_write(rows: ScanPlan, manifest: Manifest, keep: Sequence[str]) -> tuple[str, ...]:
    """Return the columns to write. Raises DataError for a missing column, or one with the name of an output."""
    present = rows.schema.names
    require_present((*(column.name for column in manifest.features.request), *keep), present, rows.name)
    columns = tuple(keep) or tuple(present)
    hidden = [name for name in output_names(manifest.task) if name in columns]
    if hidden:
        raise DataError("data.column_conflict", table=rows.name, column=hidden[0])
    return columns


@contextmanager
def output_folder(out: Path) -> Iterator[Path]:
    """A folder next to ``out`` that is renamed to ``out`` when the block ends, and deleted when it fails."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError("data.folder_not_empty", folder=str(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
    partial.mkdir()
    try:
        yield partial
        partial.rename(out)
    except BaseException:
        # Tasks that are not yet canceled may still add a file.
        for _ in range(_REMOVALS):
            shutil.rmtree(partial, ignore_errors=True)
        raise


def keep_only(folder: Path, files: set[str]) -> None:
    """Delete files of tasks that died before they reported; their retries wrote the parts again."""
    present = {path.name for path in folder.iterdir()}
    if absent := files - present:
        raise DataError("data.folder_not_shared", folder=str(folder), files=len(absent))
    for name in present - files:
        (folder / name).unlink()
