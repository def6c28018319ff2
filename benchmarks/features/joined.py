"""Reading one row of a view in a request, without and with features derived from what was read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from benchmarks.results import Row, row
from features.builders import category, derive, rolling, timestamp
from features.definitions import Derived, Entity, FeatureSet, FeatureView, Latest
from features.online.feature_reader import FeatureReader
from features.online.lmdb_store import LmdbStore
from features.online.materialize import materialize
from features.types import AS_OF, INSTANT

_EVENTS, _CUSTOMERS, _REPEATS = 20_000, 200, 4_000
_START = datetime(2026, 1, 1, tzinfo=UTC)
_WEEK, _MONTH = timedelta(days=7), timedelta(days=30)
_VIEW = FeatureView(
    name="purchases",
    entity=Entity(name="customer", keys=("customer",)),
    source="purchases",
    event_time="at",
    known_at="at",
    aggregates=(*rolling("spent", _WEEK, "week", ["sum"]), *rolling("spent", _MONTH, "month", ["sum"])),
    latest=(Latest(column="at", name="last_purchase", kind="timestamp"),),
)
_DERIVED = (
    derive("days_since", (pl.col(AS_OF) - pl.col("last_purchase")).dt.total_days(fractional=True)),
    derive("week_of_month", pl.col("week_sum") / pl.col("month_sum")),
)


def joined_rows(small: bool, progress: Callable[[str], None]) -> list[Row]:
    """The age of the newest event and the ratio of two windows, beside the same view without them, turn by turn."""
    with TemporaryDirectory() as folder:
        store = LmdbStore(Path(folder))
        materialize(store, _VIEW, _events(), round((_START + _MONTH).timestamp() * 1e6))
        plain, derived = (FeatureReader(_features(extra), store) for extra in ((), _DERIVED))
        request = pl.DataFrame({"customer": ["c7"], "when": [_START + _MONTH]}).with_columns(
            pl.col("when").cast(INSTANT)
        )
        row_table = request.to_arrow()
        without, beside = _medians(
            [lambda: plain.read(row_table, 0), lambda: derived.read(row_table, 0)],
            _REPEATS // 10 if small else _REPEATS,
        )
    progress(f"one row of a view {without:.1f} µs, with two derived features {beside:.1f} µs")
    return [
        row(
            "reading one row of a view from LMDB, and deriving two features from it, p50", "µs", beside,
            "the same view without derived features", without,
            note="age of the newest event, ratio of two windows",
        )
    ]  # fmt: skip


def _features(derived: Sequence[Derived]) -> FeatureSet:
    as_of = derive(AS_OF, pl.col("when"), "timestamp")
    request = (*category("customer"), *timestamp("when"))
    return FeatureSet(name="set", request=request, as_of=as_of, views=(_VIEW,), derived=tuple(derived))


def _events() -> pl.DataFrame:
    random = np.random.default_rng(0)
    seconds = np.sort(random.integers(0, int(_MONTH.total_seconds()), _EVENTS))
    customers = [f"c{i}" for i in random.integers(0, _CUSTOMERS, _EVENTS)]
    at = [_START + timedelta(seconds=int(s)) for s in seconds]
    events = pl.DataFrame({"customer": customers, "spent": random.gamma(2.0, 20.0, _EVENTS), "at": at})
    return events.with_columns(pl.col("at").cast(INSTANT))


def _medians(works: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median microseconds of each work, in turns."""
    times = np.empty((repeats, len(works)))
    for i in range(repeats):
        for j, work in enumerate(works):
            began = time.perf_counter()
            work()
            times[i, j] = time.perf_counter() - began
    return [float(each) * 1e6 for each in np.median(times, axis=0)]
