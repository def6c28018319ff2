"""The ledger: a detached actor per model, the one writer of its prediction and label log.

Replicas send batches; a batch is acknowledged once it is committed to Iceberg, and counts once however often it is
sent. Evidence of the running rollout is kept in memory, and rebuilt from the tables when the actor comes back. What a
killed replica had acknowledged and not sent is counted, in a table of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import pyarrow as pa
from ray.actor import ActorHandle

from cluster.actors import get_or_create
from cluster.errors import DataError
from cluster.names import labels_table, log_writer_actor, predictions_table
from cluster.row_losses import Metric
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import Task
from deployments.analysis.evidence import RolloutEvidence
from deployments.analysis.evidence_collector import EvidenceCollector, evidence_columns
from deployments.telemetry.lost_rows import LostRows
from deployments.telemetry.prediction_log import from_ipc

COMMIT_EVERY_S = 2.0
MAX_KNOWN_BATCHES = 100_000
# Replicas wait for a commit with each batch they have under way; evidence must get through all the same.
_CONCURRENT_CALLS = 1000

_log = logging.getLogger(__name__)

CommitFuture = asyncio.Future[None]


class _PendingBatch(NamedTuple):
    kind: str
    rows: pa.Table
    done: CommitFuture

    @property
    def group(self) -> tuple[str, str]:
        """Batches that go into a table together: after a promotion another feature set may follow."""
        return self.kind, str(self.rows.schema)


def connect(model: str, settings: Settings) -> ActorHandle:
    """The ledger of ``model``, started when absent."""
    return get_or_create(log_writer_actor(model), LogWriter, model, settings, max_concurrency=_CONCURRENT_CALLS)


class LogWriter:
    """See the module. All methods share one event loop; only table work leaves it."""

    async def __init__(self, model: str, settings: Settings) -> None:  # type: ignore[misc]
        self._tables = Tables(settings)
        self._names = {"predictions": predictions_table(model), "labels": labels_table(model)}
        self._pending: list[_PendingBatch] = []
        self._lost = await asyncio.to_thread(LostRows, model, self._tables)
        self._known: dict[str, CommitFuture | None] = await asyncio.to_thread(self._committed)
        self._totals = await asyncio.to_thread(self._count)
        self._rollout: EvidenceCollector | None = None
        self._grown: dict[tuple[str, str], float] = {}
        self._committing = asyncio.Lock()
        self._loop = asyncio.get_running_loop().create_task(self._commit_now_and_then())

    async def append(self, kind: str, batch: str, data: bytes) -> None:
        """Take a batch of ``predictions`` or ``labels`` (Arrow IPC); returns once it is committed.

        Raises DataError when the rows do not fit the table.
        """
        if batch in self._known:
            done = self._known[batch]
        else:
            done = self._known[batch] = asyncio.get_running_loop().create_future()
            self._pending.append(_PendingBatch(kind, from_ipc(data), done))
            if self._rollout is not None:
                _take(self._rollout, self._pending[-1])
        if done is not None:
            await asyncio.shield(done)

    async def evidence(
        self, rollout: str, challengers: tuple[str, ...], task: Task, metric: Metric = "loss"
    ) -> dict[str, RolloutEvidence]:
        """What is known about each challenger of a rollout now, predictions being judged by ``metric``."""
        if self._rollout is None or self._rollout.rollout != rollout:
            # Between reading the tables and taking in what is pending, nothing may move from one to the other.
            async with self._committing:
                log = await asyncio.to_thread(self._rebuilt, rollout, challengers, task)
                for batch in self._pending:
                    _take(log, batch)
                self._rollout = log
        seen = self._rollout.evidence(task, metric)
        grown = {version: self._grown.get((rollout, version), 0.0) for version in seen}
        return {version: one.model_copy(update={"memory_growth_mib": grown[version]}) for version, one in seen.items()}

    async def record_memory_growth(self, rollout: str, version: str, mib: float) -> None:
        """Take in how far a replica of a rollout's challenger has grown."""
        self._grown[rollout, version] = max(mib, self._grown.get((rollout, version), 0.0))

    async def flush(self) -> dict[str, int]:
        """Commit what has arrived. Returns the rows in each table, ``predictions`` and ``labels``."""
        await self._commit()
        return dict(self._totals)

    async def record_lost_rows(self, replica: str, owed: dict[str, int]) -> None:
        """Count what a dead replica owed (unshipped_rows.py) and the log lacks; once, however often it is told."""
        await self._commit()
        async with self._committing:
            await asyncio.to_thread(self._lost.record_lost_rows, replica, owed)

    async def lost_rows(self) -> dict[str, int]:
        """How many ``replicas`` were killed with rows that they had not shipped, and the rows: ``predictions``, ``labels``."""
        return self._lost.counts()

    async def pid(self) -> int:
        return os.getpid()

    async def _commit_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_EVERY_S)
            try:
                await self._commit()
            except Exception:
                # A catalog that does not answer now may answer later; the rows are kept till then.
                _log.exception("the log could not be committed")

    async def _commit(self) -> None:
        async with self._committing:
            taken = sorted(self._pending, key=lambda batch: batch.group)
            for (kind, _), group in groupby(taken, key=lambda batch: batch.group):
                await self._commit_together(kind, list(group))
            self._forget_old_batches()

    async def _commit_together(self, kind: str, batches: Sequence[_PendingBatch]) -> None:
        """As one append; when the table refuses that, batch by batch: nobody's rows are lost for another's."""
        refusal = await self._write(kind, pa.concat_tables([batch.rows for batch in batches]))
        if refusal is not None and len(batches) > 1:
            for batch in batches:
                await self._commit_together(kind, [batch])
            return
        written = {id(batch.done) for batch in batches}
        self._pending = [batch for batch in self._pending if id(batch.done) not in written]
        for batch in batches:
            _settle(batch.done, refusal)

    async def _write(self, kind: str, rows: pa.Table) -> DataError | None:
        """Append rows; returns why the table refuses them for what they are, if it does."""
        try:
            snapshot = await asyncio.to_thread(self._tables.append, self._names[kind], rows, evolve=True)
        except DataError as error:
            _log.error("%d rows of %s are refused: %s", rows.num_rows, kind, error)
            return error
        self._totals[kind] = snapshot.rows
        self._lost.record_written(kind, rows.column("batch"))
        return None

    def _rebuilt(self, rollout: str, challengers: tuple[str, ...], task: Task) -> EvidenceCollector:
        log = EvidenceCollector(rollout, challengers)
        if self._tables.exists(self._names["predictions"]):
            there = self._tables.columns(self._names["predictions"])
            columns = [name for name in evidence_columns(task) if name in there]
            log.add_predictions(self._tables.read(self._names["predictions"], columns=columns))
        if self._tables.exists(self._names["labels"]):
            log.add_labels(self._tables.read(self._names["labels"], columns=("id", "label", "received")))
        return log

    def _committed(self) -> dict[str, CommitFuture | None]:
        """Batches that are in the tables already, the oldest left out beyond the bound."""
        known: dict[str, CommitFuture | None] = {}
        for kind, name in self._names.items():
            if self._tables.exists(name):
                column = self._tables.read(name, columns=("batch",)).column("batch")
                self._lost.record_written(kind, column)
                known |= dict.fromkeys(column.unique().to_pylist()[-MAX_KNOWN_BATCHES:])
        return known

    def _count(self) -> dict[str, int]:
        latest = {kind: self._tables.latest(name) for kind, name in self._names.items()}
        return {kind: snapshot.rows if snapshot else 0 for kind, snapshot in latest.items()}

    def _forget_old_batches(self) -> None:
        while len(self._known) > MAX_KNOWN_BATCHES:
            del self._known[next(iter(self._known))]


def _take(log: EvidenceCollector, batch: _PendingBatch) -> None:
    if batch.kind == "predictions":
        log.add_predictions(batch.rows)
    else:
        log.add_labels(batch.rows)


def _settle(done: CommitFuture, refusal: DataError | None) -> None:
    if refusal is None:
        done.set_result(None)
    else:
        done.set_exception(refusal)
        # Marks the exception as seen: a replica that died meanwhile will never ask for it.
        done.exception()
