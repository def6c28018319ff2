"""Batch prediction compared with the model alone on all cores, and its memory as the table grows.

The model alone: one process per core, each with a single-threaded ONNX session, scores rows that are already encoded in
its memory, in calls of 512 rows as batch prediction does. Nothing is read, encoded or written. Batch prediction is
timed from the call to the finished folder, on a running cluster; both alternate, and every figure is the median of the
rounds. ``python -m benchmarks.serving --only batch`` writes the rows.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.serving import batch_cases, batch_memory
from benchmarks.serving.batch_cases import CHUNK_ROWS, ENCODED, ID, NARROW, WIDE, BatchCase
from cluster import connection, local_cluster
from cluster.node.ports import free_port
from cluster.settings import Settings
from cluster.values import ModelVersion
from features.manifest import MODEL_FILE

if TYPE_CHECKING:
    from rayloop.stages.batch_predict import BatchPrediction

TABLE_ROWS = 1 << 22
LARGER = 4
"""How many times as large the second table is: a prediction's fixed costs count for less in it."""
TURNS = 3
SPEED_TARGET = 0.85
_PORTS = ("dashboard_port", "serve_port", "gcs_port", "mlflow_port", "haproxy_stats_port", "haproxy_metrics_port")


class Way(NamedTuple):
    """A table and the columns that are written; all columns if none is named."""

    source: str
    keep: tuple[str, ...]
    words: str


def rows() -> list[dict[str, Any]]:
    """Return a row for each table, place and choice of columns, and two for memory."""
    with _cluster() as (workspace, base):
        start_s = _first_s(workspace, base)
        measured = [
            *_speed_rows(workspace, base, WIDE, (ID,), catalog=True),
            *_speed_rows(workspace, base, NARROW, ("n00",), catalog=False),
        ]
        measured[0]["note"] += f"; the first prediction of a job waits {start_s:.1f} s for its worker processes"
    with _cluster() as (workspace, base), _scratch(base) as folder:
        return [*measured, *batch_memory.rows(workspace, folder)]


def _first_s(workspace: Any, base: Path) -> float:
    """Seconds by which the first prediction of a job takes longer than the second."""
    from rayloop.stages import batch_predict

    with _scratch(base) as folder:
        version, source = batch_cases.bundle(NARROW, folder), batch_cases.parquet(NARROW, CHUNK_ROWS, folder / "in")
        first, second = (
            batch_predict.predict(workspace, version, source, str(folder / f"out{i}")).seconds for i in (1, 2)
        )
    return first - second


def _speed_rows(
    workspace: Any, base: Path, case: BatchCase, keep: tuple[str, ...], catalog: bool
) -> list[dict[str, Any]]:
    """Measure a Parquet table with ``keep`` written, a larger one, Iceberg, and all columns written."""
    with _scratch(base) as folder:
        version, source = batch_cases.bundle(case, folder), batch_cases.parquet(case, TABLE_ROWS, folder / "in")
        more = batch_cases.repeated(source, LARGER, folder / "more")
        ways = [
            Way(source, keep, f"from Parquet, {keep[0]} and score written"),
            Way(more, keep, f"from Parquet, {LARGER} times as many rows, {keep[0]} and score written"),
        ]
        if catalog:
            table = batch_cases.iceberg(workspace, source)
            ways.append(Way(table, keep, f"from Iceberg, {keep[0]} and score written"))
        ways.append(Way(source, (), "from Parquet, all columns written"))
        turns, alone = _turns(workspace, version, ways, folder)
        if catalog:
            workspace.tables.drop(table)
    what = f"batch prediction, {case.name}, MLP {case.model}"
    return [
        _speed_row(f"{what}, {way.words}", list(scored), alone)
        for way, scored in zip(ways, zip(*turns, strict=True), strict=True)
    ]


def _turns(
    workspace: Any, version: ModelVersion, ways: list[Way], folder: Path
) -> tuple[list[list[BatchPrediction]], list[float]]:
    """Run each way once per round, and the model alone before, between and after the rounds."""
    turns, alone = [], [_alone(folder)]
    for _ in range(TURNS):
        turns.append([_scored(workspace, version, way, folder) for way in ways])
        alone.append(_alone(folder))
    return turns, alone


def _scored(workspace: Any, version: ModelVersion, way: Way, folder: Path) -> BatchPrediction:
    from rayloop.stages import batch_predict

    with _scratch(folder) as out:
        return batch_predict.predict(workspace, version, way.source, str(out / "scored"), way.keep)


def _speed_row(work: str, turns: list[BatchPrediction], alone: list[float]) -> dict[str, Any]:
    between = [(before + after) / 2 for before, after in pairwise(alone)]
    ratio = median(turn.rows_per_second / theirs for turn, theirs in zip(turns, between, strict=True))
    return {
        "work": work, "unit": "rows/s", "rayloop": round(median(turn.rows_per_second for turn in turns), 1),
        "peer": "the model alone on all cores", "peer_value": round(median(alone), 1), "ratio": round(ratio, 3),
        "target": f">= {SPEED_TARGET}", "met": ratio >= SPEED_TARGET, "note": _profile(turns, median(alone)),
    }  # fmt: skip


def _profile(turns: list[BatchPrediction], alone: float) -> str:
    """Describe the CPU time per row by stage, by the tasks' clocks; the rest is overhead around the tasks."""
    cores = os.cpu_count() or 1
    stages = {
        stage: median(turn.stage_seconds[stage] / turn.rows for turn in turns) for stage in turns[0].stage_seconds
    }
    whole = median(cores / turn.rows_per_second for turn in turns)
    by_stage = stages | {"around the tasks": whole - sum(stages.values())}
    text = ", ".join(f"{stage} {seconds * 1e9:,.0f}" for stage, seconds in by_stage.items())
    return (
        f"{turns[0].rows:,} rows, {cores} cores, median of {len(turns)} turns; ns a row and core: {text}, "
        f"in all {whole * 1e9:,.0f}; the model alone {cores / alone * 1e9:,.0f}"
    )


def _alone(folder: Path) -> float:
    """Rows per second of the model alone, in one process per core."""
    context, count = multiprocessing.get_context("spawn"), os.cpu_count() or 1
    start, done = context.Barrier(count + 1), context.Barrier(count + 1)
    each = TABLE_ROWS // count
    workers = [context.Process(target=_score_alone, args=(folder, each, start, done)) for _ in range(count)]
    for worker in workers:
        worker.start()
    start.wait()
    began = time.perf_counter()
    done.wait()
    seconds = time.perf_counter() - began
    for worker in workers:
        worker.join()
    return each * count / seconds


def _score_alone(folder: Path, count: int, start: Barrier, done: Barrier) -> None:
    from trainers.scoring.onnx_scorer import open_session, score

    arrays = dict(np.load(folder / ENCODED))
    model = open_session(folder / MODEL_FILE)
    score(model, arrays)
    start.wait()
    for at in range(0, count, CHUNK_ROWS):
        score(model, {name: values[: count - at] for name, values in arrays.items()})
    done.wait()


@contextmanager
def _cluster() -> Iterator[tuple[Any, Path]]:
    """Yield a project context on a warmed-up cluster of all cores, with its own ports and home."""
    with _scratch(None) as base:
        ports = {port: free_port() for port in _PORTS}
        settings = Settings(home=base / "home", cpus=max(2, os.cpu_count() or 2), replica_ports_from=37000, **ports)  # type: ignore[arg-type]
        local_cluster.start(settings)
        connection.use_token()
        os.environ.update(settings.environment())
        import ray

        try:
            connection.connect(settings)
            yield _workspace(settings), base
        finally:
            ray.shutdown()
            local_cluster.stop(settings)


def _workspace(settings: Settings) -> Any:
    from cluster.log_suppression import suppress_ray_data_logs
    from examples.flights.project import project
    from rayloop.console import ProgressConsole
    from rayloop.context import ProjectContext
    from rayloop.project import locate_project

    suppress_ray_data_logs()
    return ProjectContext(project, locate_project("examples.flights.project"), settings, ProgressConsole())


@contextmanager
def _scratch(parent: Path | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="batch-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    print(json.dumps(rows(), indent=1))
