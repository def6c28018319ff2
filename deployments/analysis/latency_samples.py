"""Latency samples from log rows: the time in the predictor, one observation a batch. Pure.

Requests that a replica scores together share one latency, so each batch (same timestamp, same latency) counts once. The
two variants are compared on batches that both scored: a busy minute then weighs on both alike. A log with the answering
variant's latency alone is used as far as it goes.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.names import CHALLENGER, CHAMPION
from deployments.analysis.latency_histogram import LatencyHistogram

_MAX_KNOWN_BATCHES = 10_000
"""Batches that further rows may still belong to: one batch may reach the log in two shipments."""


class LatencyCollector:
    """Collects latencies, and remembers which batches it has counted."""

    def __init__(self) -> None:
        self._known: dict[str, dict[tuple[int, float], None]] = {CHAMPION: {}, CHALLENGER: {}}

    def collect(self, rows: pa.Table, variant: str) -> LatencyHistogram:
        """Latencies of ``variant``, ms, for the batches of ``rows`` that were not counted before."""
        known = self._known[variant]
        fresh = [batch for batch in dict.fromkeys(_batches(rows, variant)) if batch not in known]
        known.update(dict.fromkeys(fresh))
        while len(known) > _MAX_KNOWN_BATCHES:
            del known[next(iter(known))]
        return LatencyHistogram.from_values(np.array([ms for _, ms in fresh]))


def _batches(rows: pa.Table, variant: str) -> list[tuple[int, float]]:
    """Timestamp, µs, and latency of ``variant``, ms, of the batch of each request."""
    own, columns = f"{variant}_latency_ms", [f"{v}_latency_ms" for v in (CHAMPION, CHALLENGER)]
    if set(columns) <= set(rows.column_names):
        timed = rows.filter(pc.and_(rows[columns[0]].is_valid(), rows[columns[1]].is_valid()))
    else:
        own = "latency_ms"
        answered = pc.and_(pc.equal(rows["variant"], variant), pc.equal(rows["assigned"], variant))
        timed = rows.filter(pc.and_(answered, rows["latency_ms"].is_valid()))
    return list(zip(timed["at"].cast(pa.int64()).to_pylist(), timed[own].to_pylist(), strict=True))
