"""One join: by rayloop on a cluster, by Polars in its own process, by Feast in its own environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from benchmarks.features.tables import CHUNK, JoinCase, views
from benchmarks.memory import peak_mib
from benchmarks.serving.environments import VENVS
from cluster import connection, local_cluster
from cluster.node.ports import free_port
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import Snapshot

_PORTS = ("dashboard_port", "serve_port", "gcs_port", "mlflow_port", "haproxy_stats_port", "haproxy_metrics_port")
_ROW = "row"
_ERROR_CHARS = 500
_ROW_CHUNK = 1 << 19


class JoinResult(NamedTuple):
    """Seconds from files to features in memory, peak memory, number of rows, and the features with ``row``."""

    seconds: float
    peak_mib: float
    rows: int
    features: pl.DataFrame


class JoinFailed(Exception):
    """A peer's join failed; the message says why."""


class IngestedCase(NamedTuple):
    events: Snapshot
    rows: Snapshot


class JoinCluster:
    """rayloop on its own cluster."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tables = Tables(settings)

    def ingest(self, case: JoinCase) -> IngestedCase:
        """Write the case into catalog tables, in data files of at most a million rows; not timed."""
        name = f"bench.t{case.events}"
        for file in case.event_files:
            events = pl.read_parquet(file)
            for part in events.iter_slices(CHUNK if case.events > CHUNK else CHUNK // 4):
                ingested = self._tables.append(f"{name}_events", _plain(part))
        rows = pl.read_parquet(case.row_file).with_row_index(_ROW).cast({_ROW: pl.Int64})
        for part in rows.iter_slices(min(_ROW_CHUNK, -(-case.rows // 2))):
            rows_snapshot = self._tables.append(f"{name}_rows", _plain(part))
        return IngestedCase(ingested, rows_snapshot)

    def join(
        self, case: JoinCase, ingested: IngestedCase, keep: pl.Series | None = None, watch: bool = False
    ) -> JoinResult:
        """Join tables into blocks in the object store; return the features of the rows in ``keep``.

        Without ``watch`` memory is not measured: the measurement uses part of a core.
        """
        import ray

        def timed() -> tuple[list[Any], float]:
            began = time.perf_counter()
            return self._blocks(case, ingested), time.perf_counter() - began

        (blocks, seconds), peak = peak_mib(self._settings, timed) if watch else (timed(), 0.0)

        features, rows = [], 0
        for block in blocks:
            table = pl.DataFrame(ray.get(block)).select(_ROW, *case.columns)
            rows += table.height
            features.append(table if keep is None else table.filter(pl.col(_ROW).is_in(keep.implode())))
        return JoinResult(seconds, peak, rows, pl.concat(features))

    def _blocks(self, case: JoinCase, ingested: IngestedCase) -> list[Any]:
        import ray

        from features.offline.distributed_join import point_in_time_join
        from features.sources.ingestion import default_parallelism
        from features.sources.stored_rows import stored_parts

        read = ray.remote(_read)
        blocks = [read.remote(part) for part in self._tables.parts(ingested.rows)[1]]
        features = point_in_time_join(
            views(case), blocks, {"events": stored_parts(self._tables, ingested.events)}, default_parallelism()
        )
        ray.wait(features, num_returns=len(features), fetch_local=False)
        return features


def _read(part):  # type: ignore[no-untyped-def]
    return part.table(part.schema.column_names)


def _plain(frame: pl.DataFrame):  # type: ignore[no-untyped-def]
    import pyarrow as pa

    kinds = {pl.String: pa.string(), pl.Float64: pa.float64(), pl.Int64: pa.int64()}
    fields = [(name, kinds.get(kind, pa.timestamp("us", tz="UTC"))) for name, kind in frame.schema.items()]  # type: ignore[call-overload]
    return frame.to_arrow().cast(pa.schema(fields))


@contextmanager
def rayloop(home: Path) -> Iterator[JoinCluster]:
    """A cluster as ``rayloop up`` starts it."""
    ports = {port: free_port() for port in _PORTS}
    settings = Settings(home=home, replica_ports_from=38000, **ports)  # type: ignore[arg-type]
    local_cluster.start(settings)
    connection.use_token()
    os.environ.update(settings.environment())
    import ray

    try:
        connection.connect(settings)
        yield JoinCluster(settings)
    finally:
        ray.shutdown()
        local_cluster.stop(settings)


def polars_alone(case: JoinCase) -> JoinResult:
    """Join by Polars alone. Raises JoinFailed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.parquet"
        command = [sys.executable, "-m", "benchmarks.features.polars_alone", str(case.folder), str(out), _spec(case)]
        report = _run(command, timeout_s=1800)
        features = pl.read_parquet(out, columns=case.columns).with_row_index(_ROW).cast({_ROW: pl.Int64})
        return JoinResult(report["seconds"], report["peak_mib"], int(report["rows"]), features)


def feast(case: JoinCase, count: int, store: str, timeout_s: float) -> JoinResult:
    """Join by Feast, with features precomputed by ``prepare_feast``. Raises JoinFailed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.parquet"
        script = Path(__file__).parent / "peers" / "feast" / "join.py"
        python = str(VENVS / "feast" / "bin" / "python")
        report = _run([python, str(script), str(case.folder), str(out), str(count), store, _spec(case)], timeout_s)
        features = pl.read_parquet(out, columns=[_ROW, *case.columns]).cast({_ROW: pl.Int64})
        return JoinResult(report["seconds"], report["peak_mib"], int(report["rows"]), features)


def prepare_feast(case: JoinCase) -> None:
    """Precompute each window's mean and count as of each event for Feast, which only looks values up.

    Its Ray store expects the rows' time under the name of the view's time.
    """
    (case.folder / "feast").mkdir(exist_ok=True)
    for window in case.windows:
        events = pl.scan_parquet(case.folder / "events" / "*.parquet").drop_nulls([*window.keys, window.known_at])
        rolled = events.sort(window.known_at).rolling(window.known_at, period=f"{window.hours}h", group_by=window.keys)
        value = pl.col(window.column)
        features = rolled.agg(
            value.mean().alias(f"{window.name}_mean"), value.count().cast(pl.Float64).alias(f"{window.name}_count")
        )
        renamed = features.rename({window.known_at: "event_timestamp"})
        renamed.collect().write_parquet(case.folder / "feast" / f"{window.name}.parquet")


def _spec(case: JoinCase) -> str:
    return json.dumps([list(window) for window in case.windows])


def _environment() -> dict[str, str]:
    """Return the environment without variables that would connect a peer's Ray to rayloop's cluster."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY")}


def _run(command: list[str], timeout_s: float) -> dict[str, float]:
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout_s, env=_environment()
        )
    except subprocess.TimeoutExpired as error:
        raise JoinFailed(f"not finished after {timeout_s:.0f} s") from error
    if process.returncode:
        lines = process.stderr.strip().splitlines() or ["no output"]
        raise JoinFailed(f"it ended with code {process.returncode}: {lines[-1][-_ERROR_CHARS:]}")
    report: dict[str, float] = json.loads(process.stdout.strip().splitlines()[-1])
    return report
