"""Measure: times in the predictor, one observation a batch. Pure.

Requests that a replica answers together share one time, so each batch (same moment, same time) counts once. The two
variants are compared on batches that both worked on: a busy minute then weighs on both alike. A log that gives only
the answering variant's time is read as far as it goes.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.names import CHALLENGER, CHAMPION
from deployments.analysis.latency_histogram import Latencies

_REMEMBERED = 10_000
"""Batches that further rows may still belong to: one batch may reach the log in two shipments."""


class Timing:
    """Remembers which batches were counted."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[tuple[int, float], None]] = {CHAMPION: {}, CHALLENGER: {}}

    def new(self, rows: pa.Table, variant: str) -> Latencies:
        """Times, ms, that ``variant`` took for batches of ``rows`` that were not counted before."""
        seen = self._seen[variant]
        found = _times(rows, variant)
        fresh = [one for one in dict.fromkeys(found) if one not in seen]
        seen.update(dict.fromkeys(fresh))
        while len(seen) > _REMEMBERED:
            del seen[next(iter(seen))]
        return Latencies.of(np.array([ms for _, ms in fresh]))


def _times(rows: pa.Table, variant: str) -> list[tuple[int, float]]:
    """The moment, µs, and the time, ms, of each request that tells about ``variant``."""
    own, columns = f"{variant}_latency_ms", [f"{v}_latency_ms" for v in (CHAMPION, CHALLENGER)]
    if set(columns) <= set(rows.column_names):
        timed = rows.filter(pc.and_(rows[columns[0]].is_valid(), rows[columns[1]].is_valid()))
    else:
        own = "latency_ms"
        answered = pc.and_(pc.equal(rows["variant"], variant), pc.equal(rows["assigned"], variant))
        timed = rows.filter(pc.and_(answered, rows["latency_ms"].is_valid()))
    at = timed["at"].cast(pa.int64()).to_pylist()
    return list(zip(at, timed[own].to_pylist(), strict=True))
