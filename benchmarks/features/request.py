"""The request-time part of serving one row of flights: derived features, then encoding for the model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from benchmarks.results import Row, Target, row
from examples.flights.data import flights_frame
from examples.flights.features import features
from features.definitions import FeatureSet
from features.encoder import Encoder
from features.online.feature_reader import FeatureReader
from features.types import arrow_type

_REPEATS = 4_000


def request_rows(small: bool, progress: Callable[[str], None]) -> list[Row]:
    """Transform and encoding of one row. The transform is the reader of a feature set without views."""
    plain = FeatureSet(name="plain", request=features.request, derived=features.derived, as_of=features.as_of)
    table = _requests()
    reader, whole = FeatureReader(plain, _Nothing()), FeatureReader(features, _Nothing())
    frame = whole.read(table, 0)
    encoder = Encoder.fit(features.columns, frame)
    one, framed = table.slice(7, 1), whole.read(table.slice(7, 1), 0)
    repeats = _REPEATS // 10 if small else _REPEATS
    transform, encoding = (
        _microseconds(lambda: reader.read(one, 0), repeats),
        _microseconds(lambda: encoder.encode(framed), repeats),
    )
    progress(f"transform {transform:.1f} µs, encoding {encoding:.1f} µs")
    note = (
        f"transform {transform:.1f} µs ({len(features.derived)} features and the time),"
        f" encoding {encoding:.1f} µs ({len(features.columns)} columns)"
    )
    target = Target(of="value", sign="≤", limit=50)
    return [
        row("request-time transform and encoding, 1 row, p50", "µs", transform + encoding, target=target, note=note)
    ]


def _requests() -> pa.Table:
    schema = pa.schema([(c.name, arrow_type(c)) for c in features.request])
    return flights_frame().head(500).select(schema.names).to_arrow().cast(schema)


def _microseconds(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return float(np.median(times)) * 1e6


class _Nothing:
    """An empty store that ignores writes."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [None] * len(keys)

    def put_many(self, values: Mapping[bytes, bytes]) -> None: ...

    def keys(self, prefix: bytes) -> Iterable[bytes]:
        return ()

    def delete(self, keys: Iterable[bytes]) -> None: ...
