"""A detached actor per model: the one writer of its prediction and label log.

Replicas send batches; a batch is acknowledged once it is committed to Iceberg, and counts once even if it is sent
again. The writer claims the log before it reads it: one that was cut off, and replaced, commits nothing when it
returns, and ends; replicas send its batches to the newer one. Evidence of the current rollout is kept in memory, and
rebuilt from the tables when the actor restarts. Rows that a killed replica had acknowledged but not sent are counted in
a separate table.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any, NamedTuple
from uuid import uuid4

import pyarrow as pa
from ray.actor import ActorHandle
from ray.util.metrics import Counter

from cluster.actors import end_actor, get_or_create, session_name
from cluster.errors import ClaimOutdated, DataError, RayloopError, WriterReplaced
from cluster.limits import STORE_S, in_thread, within
from cluster.names import labels_table, log_writer_actor, predictions_table
from cluster.row_losses import Metric
from cluster.settings import Settings
from cluster.storage.claims import Claim
from cluster.storage.tables import Tables
from cluster.values import Task
from deployments.analysis.evidence import RolloutEvidence
from deployments.analysis.evidence_collector import EvidenceCollector, evidence_columns
from deployments.analysis.paired_predictions import UNKNOWN_DELAY, LabelWaits
from deployments.analysis.validity.validity_evidence import NOTHING_HELD_OUT, Assignment, HeldOut
from deployments.telemetry.lost_rows import LostRows
from deployments.telemetry.prediction_log import from_ipc, to_ipc
from features.disparity import DisparityLimit

COMMIT_EVERY_S = 2.0
MAX_KNOWN_BATCHES = 100_000
_APPEND_S = 30.0
_OPEN_S = 60.0
"""Within which the log must be open for a caller."""
_READ_S = 300.0
"""For reading the log when a rollout begins, or its controller asks after a restart."""
# Each batch in flight waits for a commit; requests for evidence must not wait behind it.
_CONCURRENT_CALLS = 1000

_log = logging.getLogger(__name__)

CommitFuture = asyncio.Future[None]


class _PendingBatch(NamedTuple):
    kind: str
    rows: pa.Table
    commit_future: CommitFuture

    @property
    def group(self) -> tuple[str, str]:
        """Key of batches that are appended together: after a promotion the feature set may differ."""
        return self.kind, str(self.rows.schema)


class _Commit(NamedTuple):
    """Batches that are appended together. They are held, under one key, until the answer is clear."""

    kind: str
    key: str
    batches: Sequence[_PendingBatch]


def connect_log_writer(model: str, settings: Settings) -> ActorHandle[Any]:
    """Connect to the log writer of a model; start it if absent."""
    return get_or_create(log_writer_actor(model), LogWriter, model, settings, max_concurrency=_CONCURRENT_CALLS)


class LogWriter:
    """Writes the log of one model. All methods share one event loop; only table work runs in threads."""

    async def __init__(self, model: str, settings: Settings) -> None:  # type: ignore[misc]
        self._model, self._settings = model, settings
        self._commit_failures = Counter("rayloop_log_commit_failures", "Commits that failed.", ("model",))
        self._names = {"predictions": predictions_table(model), "labels": labels_table(model)}
        self._pending: list[_PendingBatch] = []
        self._commits: list[_Commit] = []
        self._batches: dict[str, CommitFuture | None] = {}
        self._holder, self._sequence = uuid4().hex, 0
        self._claim: Claim | None = None
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rollout: EvidenceCollector | None = None
        self._memory_growth: dict[tuple[str, str], float] = {}
        self._commit_lock = asyncio.Lock()
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def append(self, kind: str, batch: str, data: bytes) -> None:
        """Append a batch; returns once it is committed.

        Args:
            kind: "predictions" or "labels".
            batch: Id of the batch; one that is known already is not appended again.
            data: Rows, as an Arrow IPC stream.

        Raises:
            DataError: The rows do not fit the table.
        """
        await self._ready()
        if batch in self._batches:
            commit_future = self._batches[batch]
        else:
            commit_future = self._batches[batch] = asyncio.get_running_loop().create_future()
            self._pending.append(_PendingBatch(kind, from_ipc(data), commit_future))
            if self._rollout is not None:
                _add_batch(self._rollout, self._pending[-1])
        if commit_future is not None:
            await asyncio.shield(commit_future)

    async def evidence(
        self,
        rollout: str,
        challengers: tuple[str, ...],
        task: Task,
        metric: Metric = "loss",
        held_out: HeldOut = NOTHING_HELD_OUT,
        since_us: int = 0,
        waits: LabelWaits = UNKNOWN_DELAY,
        limits: tuple[DisparityLimit, ...] = (),
    ) -> dict[str, RolloutEvidence]:
        """Return the current evidence on each challenger of a rollout.

        Args:
            rollout: The rollout; evidence of one rollout is kept at a time.
            challengers: Versions that it started with.
            task: Prediction task of the model.
            metric: Cost of a prediction.
            held_out: The champion's figures on held-out rows.
            since_us: Rows from before are set aside, microseconds since the epoch.
            waits: How long rows wait for their labels.
            limits: Limits of differences between groups.

        Returns:
            Evidence by challenger version.
        """
        await self._ready()
        if self._rollout is None or (self._rollout.rollout, self._rollout.since_us) != (rollout, since_us):
            # Between reading the tables and adding the pending batches, no batch may move from one to the other.
            async with self._committing():
                # What got no clear answer may be in the tables already.
                await self._append_commits()
                new = EvidenceCollector(rollout, challengers, since_us, waits, limits)
                collector = await in_thread(_READ_S, "the log", self._rebuild_evidence, new, task)
                for batch in self._pending:
                    _add_batch(collector, batch)
                self._rollout = collector
        return {
            version: evidence.model_copy(update={"memory_growth_mib": self._memory_growth.get((rollout, version), 0.0)})
            for version, evidence in self._rollout.evidence(task, metric, held_out).items()
        }

    async def take_sample(self, rollout: str) -> bytes:
        """Take a few new rows of a rollout, to be scored again, as an Arrow IPC stream; empty without any."""
        sample = self._rollout.take_sample() if self._rollout and self._rollout.rollout == rollout else None
        return to_ipc(sample) if sample is not None else b""

    async def record_lost_requests(self, requests: dict[Assignment, int]) -> None:
        """Count requests that a replica answered and could not log; the evidence is checked for more in one variant."""
        if self._rollout is not None:
            self._rollout.add_lost(requests)

    async def record_memory_growth(self, rollout: str, version: str, mib: float) -> None:
        """Record by how many MiB a replica of a rollout's challenger has grown; the largest value counts."""
        self._memory_growth[rollout, version] = max(mib, self._memory_growth.get((rollout, version), 0.0))

    async def flush(self) -> dict[str, int]:
        """Commit all pending batches. Returns the rows in each table, ``predictions`` and ``labels``."""
        await self._ready()
        await self._commit()
        return dict(self._totals)

    async def record_lost_rows(self, replica: str, unshipped: dict[str, int]) -> None:
        """Count the rows that a dead replica had not shipped and the log lacks (lost_rows.py)."""
        await self._ready()
        await self._commit()
        async with self._committing():
            await in_thread(_APPEND_S, "the log", self._lost.record_lost_rows, replica, unshipped)

    async def lost_rows(self) -> dict[str, int]:
        """Return the number of ``replicas`` that lost rows, and of lost rows: ``predictions``, ``labels``."""
        await self._ready()
        return self._lost.counts()

    async def pid(self) -> int:
        """Return this process's id."""
        return os.getpid()

    async def _ready(self) -> None:
        """Wait until the log is open. Raises WriterReplaced once another writer has it."""
        await within(_OPEN_S, "the log", asyncio.shield(self._opened))

    async def _run(self) -> None:
        while not (self._opened.done() and self._opened.exception()):
            try:
                if self._opened.done():
                    await self._commit()
                else:
                    await self._open()
            except Exception:
                # The catalog may answer later; the rows are kept until then.
                self._commit_failures.inc(tags={"model": self._model})
                _log.exception("cannot open or commit the log of %s", self._model)
            await asyncio.sleep(COMMIT_EVERY_S)

    async def _open(self) -> None:
        """Claim the log, then read what is in it: nothing is added by an earlier writer after that."""
        # A second cluster on the same stores has a log writer of its own.
        name = f"{log_writer_actor(self._model)}@{session_name()}"
        writer = (name, self._holder)
        self._claim = await in_thread(STORE_S, "the catalog", Claim.take, self._settings, *writer, self._claim)
        self._tables = Tables(self._settings, self._claim)
        self._lost = await in_thread(_READ_S, "the log", LostRows, self._model, self._tables)
        self._batches = await in_thread(_READ_S, "the log", self._committed_batches) | self._batches
        self._totals = await in_thread(_READ_S, "the log", self._count_rows)
        self._opened.set_result(None)

    @asynccontextmanager
    async def _committing(self) -> AsyncIterator[None]:
        """Hold the lock of commits; end this actor when another one has replaced it."""
        async with self._commit_lock:
            try:
                yield
            except WriterReplaced as error:
                self._end(error)
                raise
            except ClaimOutdated:
                self._opened = asyncio.get_running_loop().create_future()
                raise

    def _end(self, error: WriterReplaced) -> None:
        """End this actor; replicas send the batches without an answer to the newer one."""
        batches = [*self._pending, *(batch for commit in self._commits for batch in commit.batches)]
        self._pending, self._commits = [], []
        self._opened = asyncio.get_running_loop().create_future()
        for future in (self._opened, *(batch.commit_future for batch in batches)):
            _settle(future, error)
        end_actor()

    async def _commit(self) -> None:
        async with self._committing():
            pending, self._pending = sorted(self._pending, key=lambda batch: batch.group), []
            for (kind, _), group in groupby(pending, key=lambda batch: batch.group):
                self._commits.append(self._new_commit(kind, list(group)))
            await self._append_commits()
            self._forget_old_batches()

    def _new_commit(self, kind: str, batches: Sequence[_PendingBatch]) -> _Commit:
        self._sequence += 1
        assert self._claim is not None
        return _Commit(kind, f"{self._claim.writer}:{self._claim.epoch}:{self._sequence}", batches)

    async def _append_commits(self) -> None:
        """Append what is held, in order; if the table refuses a commit, batch by batch: a bad one costs no others."""
        while self._commits:
            commit = self._commits[0]
            refusal = await self._append(commit)
            if refusal is not None and len(commit.batches) > 1:
                self._commits[:1] = [self._new_commit(commit.kind, [batch]) for batch in commit.batches]
                continue
            del self._commits[0]
            for batch in commit.batches:
                _settle(batch.commit_future, refusal)

    async def _append(self, commit: _Commit) -> DataError | None:
        """Append rows. Returns the error if the table refuses the rows themselves; any other leaves it unclear."""
        rows = pa.concat_tables([batch.rows for batch in commit.batches])
        try:
            name = self._names[commit.kind]
            snapshot = await in_thread(_APPEND_S, name, self._tables.append, name, rows, commit.key, evolve=True)
        except DataError as error:
            _log.error("rejected %d rows of %s: %s", rows.num_rows, commit.kind, error)
            return error
        self._totals[commit.kind] = snapshot.rows
        self._lost.record_written(commit.kind, rows.column("batch"))
        return None

    def _rebuild_evidence(self, collector: EvidenceCollector, task: Task) -> EvidenceCollector:
        labels = self._read("labels", ("id", "label", "received"))
        rows = self._read(
            "predictions", evidence_columns(task, collector.group_columns), where=("rollout", collector.rollout)
        )
        history = self._read("predictions", ("id", "at", "rollout")) if labels is not None else None
        if rows is not None and labels is not None and history is not None:
            collector.add_log(rows, labels)
            collector.set_history(history, labels)
        elif rows is not None:
            collector.add_predictions(rows)
        elif labels is not None:
            collector.add_labels(labels)
        return collector

    def _read(self, kind: str, columns: tuple[str, ...], where: tuple[str, str] | None = None) -> pa.Table | None:
        """Read those of the columns that a log has; None if there is no log yet."""
        name = self._names[kind]
        if not self._tables.exists(name):
            return None
        present = self._tables.columns(name, nested=True)
        rows = self._tables.read(name, columns=[column for column in columns if column in present], where=where)
        # Some of the features are not a feature frame: they become columns of their own.
        return rows.flatten()

    def _committed_batches(self) -> dict[str, CommitFuture | None]:
        """Ids of the batches in the tables; the oldest beyond the bound are left out."""
        batch_futures: dict[str, CommitFuture | None] = {}
        for kind, name in self._names.items():
            if self._tables.exists(name):
                column = self._tables.read(name, columns=("batch",)).column("batch")
                self._lost.record_written(kind, column)
                batch_futures |= dict.fromkeys(column.unique().to_pylist()[-MAX_KNOWN_BATCHES:])
        return batch_futures

    def _count_rows(self) -> dict[str, int]:
        latest = {kind: self._tables.latest(name) for kind, name in self._names.items()}
        return {kind: snapshot.rows if snapshot else 0 for kind, snapshot in latest.items()}

    def _forget_old_batches(self) -> None:
        while len(self._batches) > MAX_KNOWN_BATCHES:
            del self._batches[next(iter(self._batches))]


def _add_batch(collector: EvidenceCollector, batch: _PendingBatch) -> None:
    if batch.kind == "predictions":
        collector.add_predictions(batch.rows)
    else:
        collector.add_labels(batch.rows)


def _settle(commit_future: CommitFuture, refusal: RayloopError | None) -> None:
    if refusal is None:
        commit_future.set_result(None)
    else:
        commit_future.set_exception(refusal)
        # Marks the exception as retrieved: a replica that died in the meantime never retrieves it.
        commit_future.exception()
