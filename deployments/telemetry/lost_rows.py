"""Rows that killed replicas had acknowledged but not shipped: counted once, in a table and as a metric."""

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
    """Lost rows of one model. Not thread-safe: its only user, the log writer, calls one method at a time.

    Args:
        model: Name of the model.
        tables: Tables of the project.
    """

    def __init__(self, model: str, tables: Tables) -> None:
        self._model, self._tables = model, tables
        self._gauge = PersistentGauge(
            "rayloop_log_lost_rows", "Rows lost when replicas were killed.", ("model", "kind")
        )
        self._written_counts: Counter[tuple[str, str]] = Counter()
        self._lost_counts = self._read()
        self._export()

    def record_written(self, kind: str, batches: pa.ChunkedArray) -> None:
        """Count rows that are in the log.

        Args:
            kind: "predictions" or "labels".
            batches: Batch id of each row.
        """
        counts = pc.value_counts(batches)
        for batch, rows in zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True):
            self._written_counts[kind, batch_replica(batch)] += rows

    def record_lost_rows(self, replica: str, unshipped: Mapping[str, int]) -> None:
        """Count the rows that a dead replica had not shipped and the log lacks. Repeated calls count once.

        Args:
            replica: Name of the replica.
            unshipped: Its unshipped rows by kind (unshipped_rows.py); some may be in the log.
        """
        lost = {kind: max(unshipped[kind] - self._written_counts[kind, replica], 0) for kind in KINDS}
        if replica in self._lost_counts or not any(lost.values()):
            return
        _log.warning("replica %s of %s was killed before it shipped these rows: %s", replica, self._model, lost)
        at = pa.array([time.time_ns() // 1000], TIMESTAMP)
        row = pa.table({"replica": [replica], "at": at} | {kind: [rows] for kind, rows in lost.items()})
        self._tables.append(lost_rows_table(self._model), row, key=replica)
        self._lost_counts[replica] = lost
        self._export()

    def counts(self) -> dict[str, int]:
        """Return the number of ``replicas`` that lost rows, and of lost rows: ``predictions``, ``labels``."""
        return {"replicas": len(self._lost_counts)} | {
            kind: sum(lost[kind] for lost in self._lost_counts.values()) for kind in KINDS
        }

    def _read(self) -> dict[str, dict[str, int]]:
        name = lost_rows_table(self._model)
        rows = self._tables.read(name).to_pylist() if self._tables.exists(name) else []
        return {row["replica"]: {kind: row[kind] for kind in KINDS} for row in rows}

    def _export(self) -> None:
        counts = self.counts()
        for kind in KINDS:
            self._gauge.set(counts[kind], {"model": self._model, "kind": kind})
