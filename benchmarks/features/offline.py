"""The point-in-time join: flights, and a generated table of growing size, compared with Feast and with Polars alone.

The time runs from files to features in memory; the cluster, the ingested tables and Feast's features exist before.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import polars as pl

from benchmarks.features import joins, oracle, tables
from benchmarks.features.joins import JoinCluster, JoinFailed, JoinResult
from benchmarks.features.tables import JoinCase
from benchmarks.results import Row, Target, row
from benchmarks.serving.environments import InstallFailed, environment

Progress = Callable[[str], None]

SIZES = (1_000_000, 5_000_000, 50_000_000)
SMALL_SIZES = (100_000, 500_000, 2_000_000)
ROUNDS = 5
_WARM_JOINS = 3
FEAST_ROWS = (100, 500, 2_000, 10_000, 100_000)
FEAST_STORES = {"file": "Feast, file store", "ray": "Feast, Ray store"}
_FEAST_S = 120.0
_POLARS = "Polars alone, one process"
_GIB = 1024.0


def flights_rows(small: bool, progress: Progress) -> list[Row]:
    """All flights, compared with Polars alone; ``small`` is for trials, here and below."""
    with _folder() as home, joins.rayloop(home / "rayloop") as cluster:
        case = tables.flights(home / "flights")
        ingested, truth = cluster.ingest(case), oracle.expected(case)
        _warm(cluster, case, ingested)
        ours, theirs = [], []
        for _ in range(1 if small else ROUNDS):
            ours.append(cluster.join(case, ingested))
            theirs.append(joins.polars_alone(case))
            progress(f"flights: rayloop {ours[-1].seconds:.2f} s, Polars {theirs[-1].seconds:.2f} s")
    sizes = f"{case.events:,} events, {case.rows:,} rows, {len(case.columns)} windowed features"
    work = f"point-in-time join, flights: {sizes}"
    rates = [case.rows / median(one.seconds for one in of) for of in (ours, theirs)]
    note = f"{_both(case, truth, ours[-1], theirs[-1])}; seconds: rayloop {_range(ours)}, Polars {_range(theirs)}"
    return [row(work, "rows/s", rates[0], _POLARS, rates[1], Target(of="ratio", sign="≥", limit=0.7), note)]


def feast_rows(small: bool, progress: Progress) -> list[Row]:
    return _feast_rows("file", small, progress)


def feast_ray_rows(small: bool, progress: Progress) -> list[Row]:
    return _feast_rows("ray", small, progress)


def generated_rows(small: bool, progress: Progress) -> list[Row]:
    """The smaller sizes."""
    return _sizes((SMALL_SIZES if small else SIZES)[:2], progress)


def large_rows(small: bool, progress: Progress) -> list[Row]:
    """The largest size, and the previous size, with which it is compared."""
    return _sizes((SMALL_SIZES if small else SIZES)[1:], progress)


def _feast_rows(store: str, small: bool, progress: Progress) -> list[Row]:
    with _folder() as home, joins.rayloop(home / "rayloop") as cluster:
        case = tables.flights(home / "flights")
        ingested = cluster.ingest(case)
        joins.prepare_feast(case)
        _warm(cluster, case, ingested)
        feast = (store, FEAST_STORES[store])
        return [_feast_row(cluster, case, ingested, feast, FEAST_ROWS[:2] if small else FEAST_ROWS, progress)]


def _feast_row(
    cluster: JoinCluster, case: JoinCase, ingested: joins.IngestedCase, feast: tuple[str, str],
    counts: Sequence[int], progress: Progress,
) -> Row:  # fmt: skip
    """Feast at the largest number of rows it finishes; rayloop's time covers all rows."""
    store, peer = feast
    work, target = f"point-in-time join, flights, rows that {peer} finishes", Target(of="ratio", sign="≥", limit=100)
    best: tuple[int, JoinResult] | None = None
    why = "it finished all sizes"
    try:
        environment("feast", progress, Path(__file__).parent / "peers")
        for count in counts:
            best = (count, joins.feast(case, count, store, _FEAST_S))
            progress(f"{peer}: {count:,} rows in {best[1].seconds:.1f} s")
    except (JoinFailed, InstallFailed) as error:
        why = f"at more, {error}"
    ours = cluster.join(case, ingested)
    rate = case.rows / ours.seconds
    if best is None:
        return row(work, "rows/s", rate, peer, None, target, f"it finished no size: {why}")
    count, theirs = best
    truth = oracle.expected(case, count)
    note = (
        f"{count:,} rows requested in {theirs.seconds:.1f} s, {theirs.rows:,} came back, {_errors(case, truth, theirs)}"
    )
    note += f"; {why}. rayloop's rate is of all {case.rows:,} rows"
    return row(work, "rows/s", rate, peer, count / theirs.seconds, target, note)


def _sizes(sizes: Sequence[int], progress: Progress) -> list[Row]:
    """A row for speed and one for memory at each size, then linearity."""
    features: list[Row] = []
    per_event: list[float] = []
    with _folder() as home, joins.rayloop(home / "rayloop") as cluster:
        for size in sizes:
            with _case(home, size, progress) as case:
                ingested, truth = cluster.ingest(case), oracle.expected(case)
                progress(f"{case.name} landed")
                if size == sizes[0]:
                    _warm(cluster, case, ingested)
                ours = cluster.join(case, ingested, truth.get_column(oracle.ROW), watch=True)
                progress(f"{case.name}: rayloop {ours.seconds:.1f} s, {ours.peak_mib:,.0f} MiB")
                per_event.append(ours.seconds / size)
                features += _size_rows(case, truth, ours, progress)
    before, after = (f"{size / 1e6:g} million" for size in sizes)
    target = Target(of="ratio", sign="≤", limit=1.2)
    work = f"generated table, time for one event, {after} events beside {before}"
    return [*features, row(work, "µs", per_event[1] * 1e6, f"rayloop at {before}", per_event[0] * 1e6, target)]


def _size_rows(case: JoinCase, truth: pl.DataFrame, ours: JoinResult, progress: Progress) -> Iterator[Row]:
    work = f"point-in-time join, generated, {case.name}, {case.rows:,} rows, {len(case.columns)} windowed features"
    target, rate = Target(of="ratio", sign="≥", limit=0.7), case.rows / ours.seconds
    try:
        theirs = joins.polars_alone(case)
    except JoinFailed as error:
        yield row(work, "rows/s", rate, _POLARS, None, target, f"{_errors(case, truth, ours)}; Polars: {error}")
    else:
        progress(f"{case.name}: Polars {theirs.seconds:.1f} s, {theirs.peak_mib:,.0f} MiB")
        note = f"{_both(case, truth, ours, theirs)}; Polars' peak memory {theirs.peak_mib / _GIB:.2f} GiB"
        yield row(work, "rows/s", rate, _POLARS, case.rows / theirs.seconds, target, note)
    limit = Target(of="value", sign="<", limit=8)
    yield row(f"peak memory of workers and object store, {case.name}", "GiB", ours.peak_mib / _GIB, target=limit)


def _both(case: JoinCase, truth: pl.DataFrame, ours: JoinResult, theirs: JoinResult) -> str:
    return f"rayloop: {_errors(case, truth, ours)}; the peer: {_errors(case, truth, theirs)}"


def _warm(cluster: JoinCluster, case: JoinCase, ingested: joins.IngestedCase) -> None:
    """Ray starts a worker process when it is first needed, which takes seconds."""
    for _ in range(_WARM_JOINS):
        cluster.join(case, ingested)


def _range(joined: Sequence[JoinResult]) -> str:
    seconds = [one.seconds for one in joined]
    return f"{min(seconds):.2f} to {max(seconds):.2f}"


def _errors(case: JoinCase, truth: pl.DataFrame, joined: JoinResult) -> str:
    count_errors, of = oracle.count_errors(case, truth, joined.features)
    return f"{count_errors} of {of} sampled rows wrong"


@contextmanager
def _case(home: Path, size: int, progress: Progress) -> Iterator[JoinCase]:
    folder = home / f"generated-{size}"
    try:
        case = tables.generated(folder, size)
        progress(f"{case.name} made")
        yield case
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="features-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
