"""Online reads, materialization, and the request-time part of serving, compared with Feast on SQLite and on Redis.

Three views of flights with twenty windowed features. Feast does not aggregate: it gets each feature's value at every
event and stores the last one. rayloop stores events and computes the values as of the request's time. Rounds alternate.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.redis_server import redis_server
from benchmarks.results import Row, Target, row
from benchmarks.serving.environments import InstallFailed, environment
from examples.flights.data import flights_frame
from features import types
from features.builders import category, rolling
from features.definitions import Aggregate, Entity, FeatureSet, FeatureView, Operation
from features.offline import point_in_time
from features.online.feature_reader import FeatureReader
from features.online.layout_upgrade import ServingStates
from features.online.materialize import delete_view_state, materialize, push
from features.online.store import OnlineStore, open_serving_store, open_store
from features.types import AS_OF

Progress = Callable[[str], None]

_PROJECT = "benchmark"
SIZES = (1, 10, 100, 500)
READS = {1: 400, 10: 200, 100: 60, 500: 30}
ROUNDS = 5
PUSHED = 20_000
_END_US = 1_388_620_800_000_000  # 2014-01-02
_KEYS = ("dest", "tailnum", "carrier", "origin")


def _view(
    name: str, keys: tuple[str, ...], when: str, column: str, *windows: tuple[int, Sequence[Operation]]
) -> FeatureView:
    aggregates: list[Aggregate] = []
    for hours, ops in windows:
        aggregates += rolling(column, timedelta(hours=hours), f"{name}_{hours}h", ops)
    return FeatureView(
        name=name, entity=Entity(name=name, keys=keys), source="flights", event_time=when, known_at=when,
        aggregates=tuple(aggregates),
    )  # fmt: skip


VIEWS = (
    _view(
        "dest", ("dest",), "landed_at", "arr_delay",
        (6, ("mean", "count", "std", "max")), (24, ("mean", "count", "min")),
    ),
    _view(
        "tail", ("tailnum",), "departed_at", "dep_delay",
        (24, ("mean", "count", "std", "max")), (72, ("mean", "count", "sum")),
    ),
    _view(
        "route", ("carrier", "origin"), "departed_at", "dep_delay",
        (2, ("mean", "count", "std")), (6, ("mean", "count", "max")),
    ),
)  # fmt: skip
FEATURES = FeatureSet(name="online", request=category(*_KEYS), views=VIEWS)


class _StoreCase(NamedTuple):
    """Where values are stored: by rayloop at ``uri``, by the peer in ``online``. ``limit`` bounds the reads' ratio."""

    where: str
    peer: str
    uri: str
    online: dict[str, str]
    limit: float


def embedded_rows(small: bool, progress: Progress) -> list[Row]:
    """LMDB compared with Feast on SQLite; ``small`` is for trials."""
    with tempfile.TemporaryDirectory() as home:
        place = _StoreCase("embedded", "Feast, SQLite", f"lmdb://{home}/online", {"type": "sqlite"}, 0.1)
        return list(_beside(place, Path(home), small, progress))


def redis_rows(small: bool, progress: Progress) -> list[Row]:
    """Both on one Redis, in separate databases."""
    with tempfile.TemporaryDirectory() as home, redis_server(Path(home)) as redis:
        theirs = {"type": "redis", "connection_string": f"{redis.removeprefix('redis://')},db=2"}
        return list(
            _beside(_StoreCase("Redis", "Feast, Redis", f"{redis}/1", theirs, 1 / 3), Path(home), small, progress)
        )


def _precompute_features(views: Sequence[FeatureView], events: pl.DataFrame, folder: Path) -> None:
    for view in views:
        request_rows = events.select(*view.entity.keys, pl.col(view.known_at).alias(AS_OF)).drop_nulls()
        features = pl.concat(
            [request_rows.rename({AS_OF: "event_timestamp"}), point_in_time.join(view, events, request_rows)],
            how="horizontal",
        )
        features.write_parquet(folder / f"{view.name}.parquet")


def _beside(place: _StoreCase, folder: Path, small: bool, progress: Progress) -> Iterator[Row]:
    store, rounds, share = open_store(place.uri, _PROJECT), *((1, 10) if small else (ROUNDS, 1))
    events = flights_frame().drop_nulls(["tailnum"])
    _precompute_features(VIEWS, events, folder)
    python, why = _python(progress)
    with ExitStack() as running:
        feast = running.enter_context(_feast(python, folder, place.online, VIEWS)) if python else None
        yield from _materialized(place, store, feast, events, rounds, why)
        progress(f"{place.peer}: materialized")
        serving_store = open_serving_store(place.uri, _PROJECT)
        reader = FeatureReader(FEATURES, ServingStates(serving_store, VIEWS))
        for size in SIZES:
            timed = _read(reader, feast, events, size, rounds, max(5, READS[size] // share))
            yield from _read_rows(place, size, timed, why)
            progress(f"{place.peer}: {size} rows: {timed.ours[50]:.3f} ms, {timed.theirs.get(50, float('nan')):.3f} ms")
    yield from _many_entities(place, store, python, folder, small, why)


def _python(progress: Progress) -> tuple[Path | None, str]:
    """The peer's Python, or why there is none."""
    try:
        return environment("feast", progress, Path(__file__).parent / "peers") / "python", ""
    except InstallFailed as error:
        return None, str(error)


def _materialized(
    place: _StoreCase, store: OnlineStore, feast: _Feast | None, events: pl.DataFrame, rounds: int, why: str
) -> Iterator[Row]:
    ours, counted = _timed(store, VIEWS, events, rounds)
    theirs = [counted / feast.ask("materialize", None)["seconds"] for _ in range(rounds)] if feast else []
    note = f"{counted:,} events of three views, {_entities(events):,} entities; {_PRECOMPUTED}"
    work = f"materialization of flights, {place.where}"
    yield row(work, "events/s", ours, place.peer, _median(theirs), _MATERIALIZED, why or note)
    view = VIEWS[0].model_copy(update={"name": "pushed", "ttl": timedelta(days=999)})
    began = time.perf_counter()
    batches = [push(store, view, part) for part in events.head(PUSHED).iter_slices(1000)]
    rate = sum(batches) / (time.perf_counter() - began)
    delete_view_state(store, view)
    pushed = PUSHED / feast.ask("push", PUSHED)["seconds"] if feast else None
    work = f"events pushed, 1,000 at a time, {place.where}"
    yield row(work, "rows/s", rate, place.peer, pushed, _MATERIALIZED, why or "Feast: all in one call")


def _many_entities(
    place: _StoreCase, store: OnlineStore, python: Path | None, folder: Path, small: bool, why: str
) -> Iterator[Row]:
    """A table of which most is written, because each entity has a few recent events."""
    draw, entities = np.random.default_rng(0), 10_000 if small else 100_000
    count = 5 * entities
    at = pl.Series(_END_US - draw.integers(0, 5 * 3_600_000_000, count)).cast(types.INSTANT)
    users = pl.Series(draw.integers(0, entities, count)).cast(pl.String)
    events = pl.DataFrame({"user": users, "at": at, "amount": draw.gamma(2.0, 20.0, count)})
    view = _view("user", ("user",), "at", "amount", (6, ("mean", "count")))
    _precompute_features((view,), events, folder)
    ours, counted = _timed(store, (view,), events, 1 if small else 3)
    theirs = None
    if python is not None:
        with _feast(python, folder, place.online, (view,)) as feast:
            theirs = counted / feast.ask("materialize", None)["seconds"]
    note = f"{counted:,} events of {users.n_unique():,} entities, one view of two features; {_PRECOMPUTED}"
    work = f"materialization of a table with many entities, {place.where}"
    yield row(work, "events/s", ours, place.peer, theirs, _MATERIALIZED, why or note)
    delete_view_state(store, view)


_MATERIALIZED = Target(of="ratio", sign="≥", limit=20)
_PRECOMPUTED = (
    "rayloop from a table in memory, Feast from Parquet and precomputed values, of which it writes each entity's last"
)


def _timed(store: OnlineStore, views: Sequence[FeatureView], events: pl.DataFrame, rounds: int) -> tuple[float, int]:
    """Return the median of events per second, and the number of events."""
    rates: list[float] = []
    counted = 0
    for _ in range(rounds):
        for view in views:
            delete_view_state(store, view)
        began = time.perf_counter()
        counted = sum(materialize(store, view, events, _END_US) for view in views)
        rates.append(counted / (time.perf_counter() - began))
    return float(np.median(rates)), counted


def _entities(events: pl.DataFrame) -> int:
    return sum(events.select(view.entity.keys).drop_nulls().n_unique() for view in VIEWS)


class _ReadTimes(NamedTuple):
    """Percentiles in milliseconds, and in how many cells Feast's values differ from those as of the request's time."""

    ours: dict[int, float]
    theirs: dict[int, float]
    differing: str


def _read(
    reader: FeatureReader, feast: _Feast | None, events: pl.DataFrame, size: int, rounds: int, reads: int
) -> _ReadTimes:
    keys = events.tail(20_000).select(_KEYS)
    draw = np.random.default_rng(size)
    ours: list[float] = []
    theirs: list[float] = []
    differing = ""
    for _ in range(rounds * reads):
        table = keys[draw.integers(0, keys.height, size)].to_arrow().cast(_SCHEMA)
        began = time.perf_counter()
        result = reader.read(table, _END_US)
        ours.append(time.perf_counter() - began)
        # Alternate, so that each wakes up for a read and other load on the machine affects both.
        if feast is not None:
            answer = feast.ask("read", table.to_pylist())
            theirs.append(answer["seconds"])
            if answer["values"]:
                differing = _differing(result, answer["values"])
    return _ReadTimes(_percentiles(ours), _percentiles(theirs), differing)


def _differing(result: pa.Table, values: dict[str, list[Any]]) -> str:
    names = [column.name for view in VIEWS for column in view.columns]
    pairs = [pair for name in names for pair in zip(result.column(name).to_pylist(), values[name], strict=True)]
    stale = sum(one != other for one, other in pairs)
    return f"Feast's values are not those as of the requested time in {stale:,} of {len(pairs):,} cells"


def _read_rows(place: _StoreCase, size: int, timed: _ReadTimes, why: str) -> Iterator[Row]:
    work = f"online read of 20 features in 3 views, {'1 row' if size == 1 else f'{size} rows'}, {place.where}"
    note, target = why or timed.differing, Target(of="ratio", sign="≤", limit=place.limit)
    yield row(f"{work}, p50", "ms", timed.ours[50], place.peer, timed.theirs.get(50), None, note)
    yield row(f"{work}, p99", "ms", timed.ours[99], place.peer, timed.theirs.get(99), target, note)
    if size == 1 and place.where == "embedded":
        yield row(f"{work}, p99", "ms", timed.ours[99], target=Target(of="value", sign="<", limit=1))


def _percentiles(seconds: Sequence[float]) -> dict[int, float]:
    return {percent: float(np.percentile(seconds, percent)) * 1e3 for percent in (50, 99)} if seconds else {}


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


class _Feast:
    """The peer's process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, what: str, of: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({what: of}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("ANSWER "):
                answer: dict[str, Any] = json.loads(line.removeprefix("ANSWER "))
                return answer
        raise RuntimeError(f"Feast's process ended while asked to {what}")


@contextmanager
def _feast(python: Path, folder: Path, online: dict[str, str], views: Sequence[FeatureView]) -> Iterator[_Feast]:
    script = Path(__file__).parent / "peers" / "feast" / "online.py"
    spec = [[view.name, view.entity.keys, [c.name for c in view.columns]] for view in views]
    command = [str(python), str(script), str(folder), json.dumps(spec), json.dumps(online)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield _Feast(process)
        finally:
            process.terminate()


_SCHEMA = pa.schema([(key, pa.string()) for key in _KEYS])
