"""One join by each: rayloop on a cluster, Polars in a process of its own, Feast in an environment of its own."""

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
from typing import NamedTuple

import polars as pl

from benchmarks.features.tables import CHUNK, Case, views
from benchmarks.memory import peak_mib
from benchmarks.serving.environments import VENVS
from cluster import connection, local_cluster
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import Snapshot

_PORTS = ("dashboard_port", "serve_port", "gcs_port", "mlflow_port", "haproxy_stats_port", "haproxy_metrics_port")
_ROW = "row"
_TOLD_CHARS = 500
_ROW_CHUNK = 1 << 19


class Joined(NamedTuple):
    """Seconds from files to features in memory, peak memory, rows that came back, and the features with ``row``."""

    seconds: float
    peak_mib: float
    rows: int
    made: pl.DataFrame


class JoinFailed(Exception):
    """A peer that did not finish; the message says why."""


class Landed(NamedTuple):
    events: Snapshot
    rows: Snapshot


class Rayloop:
    """rayloop on a cluster of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tables = Tables(settings)

    def land(self, case: Case) -> Landed:
        """The case as tables of the catalog, in data files of a million rows or half of it; not timed."""
        name = f"bench.t{case.events}"
        for file in case.event_files:
            events = pl.read_parquet(file)
            for part in events.iter_slices(CHUNK if case.events > CHUNK else CHUNK // 4):
                landed = self._tables.append(f"{name}_events", _plain(part))
        rows = pl.read_parquet(case.row_file).with_row_index(_ROW).cast({_ROW: pl.Int64})
        for part in rows.iter_slices(min(_ROW_CHUNK, -(-case.rows // 2))):
            asked = self._tables.append(f"{name}_rows", _plain(part))
        return Landed(landed, asked)

    def join(self, case: Case, landed: Landed, keep: pl.Series | None = None, watch: bool = False) -> Joined:
        """From tables to blocks with features in the object store; ``keep`` are the rows to give back.

        Without ``watch`` memory is not measured, which takes a share of a core.
        """
        import ray

        def timed() -> tuple[list, float]:
            began = time.perf_counter()
            return self._blocks(case, landed), time.perf_counter() - began

        (blocks, seconds), peak = peak_mib(self._settings, timed) if watch else (timed(), 0.0)

        made, rows = [], 0
        for block in blocks:
            table = pl.DataFrame(ray.get(block)).select(_ROW, *case.columns)
            rows += table.height
            made.append(table if keep is None else table.filter(pl.col(_ROW).is_in(keep.implode())))
        return Joined(seconds, peak, rows, pl.concat(made))

    def _blocks(self, case: Case, landed: Landed) -> list:
        import ray

        from features.offline.distributed_join import point_in_time_join
        from features.sources.ingestion import default_parallelism

        read = ray.remote(_read)
        blocks = [read.remote(part) for part in self._tables.parts(landed.rows)[1]]
        made = point_in_time_join(
            views(case), blocks, {"events": self._tables.parts(landed.events)[1]}, default_parallelism()
        )
        ray.wait(made, num_returns=len(made), fetch_local=False)
        return made


def _read(part):  # type: ignore[no-untyped-def]
    return part.table(part.schema.column_names)


def _plain(frame: pl.DataFrame):  # type: ignore[no-untyped-def]
    import pyarrow as pa

    kinds = {pl.String: pa.string(), pl.Float64: pa.float64(), pl.Int64: pa.int64()}
    fields = [(name, kinds.get(kind, pa.timestamp("us", tz="UTC"))) for name, kind in frame.schema.items()]  # type: ignore[call-overload]
    return frame.to_arrow().cast(pa.schema(fields))


@contextmanager
def rayloop(home: Path) -> Iterator[Rayloop]:
    """A cluster as ``rayloop up`` starts it."""
    ports = {port: local_cluster.free_port() for port in _PORTS}
    settings = Settings(home=home, replica_ports_from=38000, **ports)  # type: ignore[arg-type]
    local_cluster.start(settings)
    connection.use_token()
    os.environ.update(settings.environment())
    import ray

    try:
        connection.connect(settings)
        yield Rayloop(settings)
    finally:
        ray.shutdown()
        local_cluster.stop(settings)


def polars_alone(case: Case) -> Joined:
    """Raises JoinFailed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.parquet"
        command = [sys.executable, "-m", "benchmarks.features.polars_alone", str(case.folder), str(out), _spec(case)]
        told = _run(command, timeout_s=1800)
        made = pl.read_parquet(out, columns=case.columns).with_row_index(_ROW).cast({_ROW: pl.Int64})
        return Joined(told["seconds"], told["peak_mib"], int(told["rows"]), made)


def feast(case: Case, count: int, store: str, timeout_s: float) -> Joined:
    """Raises JoinFailed. The features are made beforehand by ``prepare_feast``."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.parquet"
        script = Path(__file__).parent / "peers" / "feast" / "join.py"
        python = str(VENVS / "feast" / "bin" / "python")
        told = _run([python, str(script), str(case.folder), str(out), str(count), store, _spec(case)], timeout_s)
        made = pl.read_parquet(out, columns=[_ROW, *case.columns]).cast({_ROW: pl.Int64})
        return Joined(told["seconds"], told["peak_mib"], int(told["rows"]), made)


def prepare_feast(case: Case) -> None:
    """For Feast, which looks values up: each window's mean and count as of each event.

    Its Ray store looks for the rows' time under the name that the view's time has.
    """
    (case.folder / "feast").mkdir(exist_ok=True)
    for window in case.windows:
        events = pl.scan_parquet(case.folder / "events" / "*.parquet").drop_nulls([*window.keys, window.known_at])
        rolled = events.sort(window.known_at).rolling(window.known_at, period=f"{window.hours}h", group_by=window.keys)
        value = pl.col(window.column)
        made = rolled.agg(
            value.mean().alias(f"{window.name}_mean"), value.count().cast(pl.Float64).alias(f"{window.name}_count")
        )
        named = made.rename({window.known_at: "event_timestamp"})
        named.collect().write_parquet(case.folder / "feast" / f"{window.name}.parquet")


def _spec(case: Case) -> str:
    return json.dumps([list(window) for window in case.windows])


def _environment() -> dict[str, str]:
    """Without what would lead a peer's Ray to rayloop's cluster."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY")}


def _run(command: list[str], timeout_s: float) -> dict[str, float]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout_s, env=_environment()
        )
    except subprocess.TimeoutExpired as error:
        raise JoinFailed(f"not finished after {timeout_s:.0f} s") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no word"]
        raise JoinFailed(f"it ended with code {done.returncode}: {said[-1][-_TOLD_CHARS:]}")
    told: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return told
