"""Rows that killed replicas had acknowledged and not shipped: counted once, kept in a table, shown as a metric."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from cluster.names import lost_rows_table
from cluster.persistent_gauge import PersistentGauge
from cluster.storage.tables import Tables
from deployments.protocol.arrow_columns import TIMESTAMP
from deployments.telemetry.prediction_log import batch_replica
from deployments.telemetry.unshipped_rows import KINDS

_log = logging.getLogger(__name__)


class LostRows:
    """One model's. The ledger is its only user, and calls one method at a time."""

    def __init__(self, model: str, tables: Tables) -> None:
        self._model, self._tables = model, tables
        self._gauge = PersistentGauge(
            "rayloop_log_lost_rows", "Rows that killed replicas took with them.", ("model", "kind")
        )
        self._written: Counter[tuple[str, str]] = Counter()
        self._lost = self._read()
        self._show()

    def record_written(self, kind: str, batches: pa.ChunkedArray) -> None:
        """Take in rows that are in the log, by the batch that each came in."""
        counted = pc.value_counts(batches)
        for batch, rows in zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True):
            self._written[kind, batch_replica(batch)] += rows

    def record_lost_rows(self, replica: str, owed: Mapping[str, int]) -> None:
        """Count what a dead replica owed (unshipped_rows.py) and the log lacks; once, however often it is told."""
        lost = {kind: max(owed[kind] - self._written[kind, replica], 0) for kind in KINDS}
        if replica in self._lost or not any(lost.values()):
            return
        _log.warning("replica %s of %s was killed with rows that it had not shipped: %s", replica, self._model, lost)
        at = pa.array([time.time_ns() // 1000], TIMESTAMP)
        row = pa.table({"replica": [replica], "at": at} | {kind: [rows] for kind, rows in lost.items()})
        self._tables.append(lost_rows_table(self._model), row, key=replica)
        self._lost[replica] = lost
        self._show()

    def counts(self) -> dict[str, int]:
        """How many ``replicas`` lost rows, and the rows: ``predictions``, ``labels``."""
        return {"replicas": len(self._lost)} | {kind: sum(lost[kind] for lost in self._lost.values()) for kind in KINDS}

    def _read(self) -> dict[str, dict[str, int]]:
        name = lost_rows_table(self._model)
        rows = self._tables.read(name).to_pylist() if self._tables.exists(name) else []
        return {row["replica"]: {kind: row[kind] for kind in KINDS} for row in rows}

    def _show(self) -> None:
        counts = self.counts()
        for kind in KINDS:
            self._gauge.set(counts[kind], {"model": self._model, "kind": kind})
