"""A replica's reports, off the request path: prediction log, labels, live profiles, metrics.

A request appends to a buffer; a thread ships it every half second. A batch is kept until the log writer has committed
it, and is sent again when the log writer dies, so the log lacks at most what a killed replica had not shipped: a
counter that outlives the replica tells how much that was, and another replica reports it to the log writer. Buffers are
bounded: beyond the bound rows are dropped and counted, and no request ever waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from cluster.actors import find_actor
from cluster.errors import CallTimeout, WriterReplaced
from cluster.names import log_writer_actor, monitor_actor
from cluster.settings import load_settings
from deployments.analysis.validity.validity_evidence import Assignment
from deployments.telemetry import unshipped_rows
from deployments.telemetry.metrics import ReplicaMetrics, ResponseKey
from deployments.telemetry.prediction_log import (
    PredictionBatch,
    batch_id,
    count_assignments,
    label_rows,
    prediction_rows,
    to_ipc,
)
from deployments.telemetry.resource_usage import UsageMeter
from features.definitions import Column
from features.profiles.profile import Profile, append_output, output_column

FLUSH_EVERY_S = 0.5
MAX_BUFFERED_ROWS = 50_000
# HTTP responses of each flush that are timed: a histogram takes them one by one, and a sample has the same quantiles.
_TIMED_RESPONSES = 32
_RETRY_LOOKUP_S = 5.0
_SETTLE_EVERY_S = 5.0
_USAGE_EVERY_S = 10.0
_SETTLE_WITHIN_S = 30.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _OutgoingBatch:
    """Rows on their way to the log writer; ``sent`` is None while they must be sent (again)."""

    kind: str
    id: str
    rows: int
    data: bytes
    requests: Counter[Assignment] = field(default_factory=Counter)
    """Requests of a rollout among the rows, in case they are dropped."""
    sent: ray.ObjectRef[Any] | None = field(default=None)


class _Predictions(NamedTuple):
    batch: PredictionBatch
    columns: tuple[Column, ...]
    window_s: float | None


class _Labels(NamedTuple):
    rows: pa.Table
    received_us: int


class Reporter:
    """Reports of one replica. The ``record_`` methods may be called from any thread, and return immediately.

    Creating it looks its actors up: to get an actor's handle loads its class, seconds of import that no request may
    wait for.

    Args:
        model: Name of the model.
        count_in_flight: Returns the number of requests in flight, those that wait included.
    """

    def __init__(self, model: str, count_in_flight: Callable[[], int]) -> None:
        self._replica = uuid4().hex[:12]
        self._counter_folder = unshipped_rows.counter_folder(load_settings(), model)
        self._counter = unshipped_rows.UnshippedCounter(self._counter_folder, self._replica)
        self._next_settlement = 0.0
        self._buffer = _Buffer()
        self._log_writer = _NamedActor(log_writer_actor(model))
        self._monitor = _NamedActor(monitor_actor(model))
        self._metrics = ReplicaMetrics(model, self._replica)
        self._count_in_flight = count_in_flight
        for actor in (self._log_writer, self._monitor):
            actor.get()
        self._batches: list[_OutgoingBatch] = []
        self._sequence = 0
        self._lost_requests: Counter[Assignment] = Counter()
        self._responses: Counter[ResponseKey] = Counter()
        self._exported_responses: Counter[ResponseKey] = Counter()
        self._timed_responses: deque[tuple[ResponseKey, float]] = deque(maxlen=_TIMED_RESPONSES)
        self._dropped_copies = 0
        self._requests = 0
        self._meter = UsageMeter(self._replica, ray.get_runtime_context().get_assigned_resources())
        self._next_usage = time.monotonic() + _USAGE_EVERY_S
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"telemetry-{model}", daemon=True)
        self._thread.start()

    def announce_predictions(self, rows: int) -> None:
        """Count rows that will be recorded later: if this replica is killed before, they are known to be lost."""
        self._counter.add("predictions", rows)

    def record_predictions(
        self, predictions: PredictionBatch, columns: tuple[Column, ...], window_s: float | None, announced: bool = False
    ) -> None:
        """Report predictions.

        Args:
            predictions: Predictions and their requests.
            columns: Inputs of the model.
            window_s: Width of the windows of live profiles, seconds; None: no profiles.
            announced: Whether their rows were announced.
        """
        rows = predictions.frame.num_rows
        buffered = self._buffer.add(_Predictions(predictions, columns, window_s), rows)
        if buffered != announced:
            self._counter.add("predictions", rows if buffered else -rows)

    def record_labels(self, rows: pa.Table) -> None:
        """Report labels (feedback.parse_feedback)."""
        if self._buffer.add(_Labels(rows, time.time_ns() // 1000), rows.num_rows):
            self._counter.add("labels", rows.num_rows)

    def record_response(self, method: str, status: int, seconds: float) -> None:
        """Count an HTTP response."""
        key = ResponseKey(method, status)
        self._responses[key] += 1
        self._timed_responses.append((key, seconds))

    def record_dropped_copies(self, requests: int) -> None:
        """Count requests that were not copied to a challenger: too many copies in flight, or their budget spent."""
        self._dropped_copies += requests

    def close(self, deadline_s: float) -> None:
        """Ship what is left; gives up after ``deadline_s`` seconds."""
        self._closing.set()
        self._thread.join(deadline_s)

    def _run(self) -> None:
        while not self._closing.wait(FLUSH_EVERY_S):
            self._guarded_flush()
        self._guarded_flush()
        while self._batches:
            self._guarded_flush()
            self._closing_pause()
        self._counter.close()

    def _closing_pause(self) -> None:
        pending = [batch.sent for batch in self._batches if batch.sent is not None]
        if pending:
            ray.wait(pending, timeout=FLUSH_EVERY_S)
        else:
            time.sleep(FLUSH_EVERY_S)

    def _guarded_flush(self) -> None:
        # The thread must survive every failure of a flush, or the replica stops reporting.
        try:
            self._flush()
        except Exception:
            _log.exception("telemetry of replica %s failed to flush", self._replica)

    def _flush(self) -> None:
        predictions, labels = self._buffer.drain()
        groups = [list(group) for _, group in groupby(predictions, key=lambda item: item.batch.champion_version)]
        for group in groups:
            self._report([item.batch for item in group])
        for rows, received_us in labels:
            batch = self._next_batch_id()
            self._queue("labels", batch, label_rows(rows, received_us, batch))
        self._export_metrics()
        self._ship()
        self._report_usage(sum(len(item.batch.requests) for item in predictions))
        # After the log: a failure in a profile must cost no log rows and no labels.
        for group in groups:
            self._profile(group)
        if time.monotonic() >= self._next_settlement and not self._closing.is_set():
            self._next_settlement = time.monotonic() + _SETTLE_EVERY_S
            self._settle_dead_replicas()

    def _export_metrics(self) -> None:
        dropped, requests = self._buffer.take_dropped()
        self._metrics.record_dropped_rows(dropped)
        self._lost_requests.update(requests)
        responses = Counter(dict(self._responses))
        timed = [self._timed_responses.popleft() for _ in range(len(self._timed_responses))]
        self._metrics.record_responses(responses - self._exported_responses, timed)
        self._exported_responses = responses
        dropped_copies, self._dropped_copies = self._dropped_copies, 0
        self._metrics.record_dropped_copies(dropped_copies)
        self._metrics.set_in_flight(self._count_in_flight())

    def _report(self, predictions: Sequence[PredictionBatch]) -> None:
        batch = self._next_batch_id()
        self._queue("predictions", batch, prediction_rows(predictions, batch), count_assignments(predictions))
        self._metrics.record_predictions(predictions)

    def _profile(self, items: Sequence[_Predictions]) -> None:
        monitor, window_s = self._monitor.get(), items[-1].window_s
        if monitor is not None and window_s is not None:
            batches = [item.batch for item in items]
            for start_s, profile in window_profiles(batches, items[-1].columns, window_s).items():
                monitor.observe.remote(batches[0].champion_version, start_s, profile.to_bytes())

    def _report_usage(self, requests: int) -> None:
        """Report usage at intervals and at the end, with the number of requests since the last report."""
        self._requests += requests
        monitor = self._monitor.get()
        if monitor is not None and (time.monotonic() >= self._next_usage or self._closing.is_set()):
            self._next_usage = time.monotonic() + _USAGE_EVERY_S
            monitor.record_usage.remote(self._meter.read(self._requests))
            self._requests = 0

    def _next_batch_id(self) -> str:
        self._sequence += 1
        return batch_id(self._replica, self._sequence)

    def _queue(self, kind: str, batch: str, rows: pa.Table, requests: Counter[Assignment] | None = None) -> None:
        self._batches.append(_OutgoingBatch(kind, batch, rows.num_rows, to_ipc(rows), requests or Counter()))
        while sum(b.rows for b in self._batches) > MAX_BUFFERED_ROWS:
            self._drop(self._batches.pop(0))

    def _drop(self, batch: _OutgoingBatch) -> None:
        self._metrics.record_dropped_rows(batch.rows)
        self._counter.add(batch.kind, -batch.rows)
        self._lost_requests.update(batch.requests)

    def _ship(self) -> None:
        self._settle()
        log_writer = self._log_writer.get()
        if log_writer is None:
            return
        if self._lost_requests:
            log_writer.record_lost_requests.remote(dict(self._lost_requests))
            self._lost_requests.clear()
        for batch in self._batches:
            if batch.sent is None:
                batch.sent = log_writer.append.remote(batch.kind, batch.id, batch.data)

    def _settle(self) -> None:
        """Remove committed batches; mark for sending again those that were lost with the log writer."""
        for batch in list(self._batches):
            if batch.sent is None or not ray.wait([batch.sent], timeout=0)[0]:
                continue
            try:
                ray.get(batch.sent)
            except (RayActorError, CallTimeout, WriterReplaced):
                # It is gone, has not opened the log, or has a successor.
                batch.sent = None
                self._log_writer.forget()
                continue
            except RayTaskError as error:
                # The log writer refuses the rows themselves: sending them again would not help.
                _log.error("the log writer refused batch %s: %s", batch.id, error)
                self._drop(batch)
            self._batches.remove(batch)

    def _settle_dead_replicas(self) -> None:
        """Report the unshipped rows of dead replicas of this node to the log writer."""
        log_writer = self._log_writer.get()
        if log_writer is None:
            return
        for remainder in unshipped_rows.read_remainders(self._counter_folder):
            ray.get(log_writer.record_lost_rows.remote(remainder.replica, remainder.rows), timeout=_SETTLE_WITHIN_S)
            remainder.forget()


def window_profiles(
    batches: Sequence[PredictionBatch], columns: tuple[Column, ...], window_s: float
) -> dict[float, Profile]:
    """Compute live profiles of the model's inputs and the champion's scores.

    Args:
        batches: Predictions of one champion version.
        columns: Inputs of the model.
        window_s: Width of the windows of event time, seconds.

    Returns:
        Profiles by start of the window, seconds since the epoch.
    """
    task, scores = batches[0].task, [batch.champion for batch in batches if batch.champion is not None]
    if not scores:
        return {}
    # In one piece: Arrow's kernels take a chunk at a time, and there is one for each batch.
    frame = pa.concat_tables([batch.frame for batch in batches if batch.champion is not None]).combine_chunks()
    frame = append_output(frame, task, np.concatenate(scores))
    width_us = int(window_s * 1e6)
    # Not a safe cast: the year 1, which a client without a clock sends, has more microseconds than a float can resolve.
    at_us = frame["as_of"].cast(pa.int64()).cast(pa.float64(), safe=False)
    starts = pc.multiply(pc.floor(pc.divide(at_us, width_us)), window_s)
    distinct = pc.unique(starts).to_pylist()
    profiles: dict[float, Profile] = defaultdict(lambda: Profile.empty((*columns, output_column(task))))
    for start in distinct:
        profiles[start].update(frame if len(distinct) == 1 else frame.filter(pc.equal(starts, start)))
    return dict(profiles)


class _Buffer:
    """Queues of predictions and labels, with one bound on their rows together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: list[_Predictions | _Labels] = []
        self._rows = 0
        self._dropped = 0
        self._dropped_requests: Counter[Assignment] = Counter()

    def add(self, item: _Predictions | _Labels, rows: int) -> bool:
        """Add predictions or labels. Returns False when there is no room for their rows."""
        with self._lock:
            if self._rows + rows > MAX_BUFFERED_ROWS:
                self._dropped += rows
                if isinstance(item, _Predictions):
                    self._dropped_requests.update(count_assignments([item.batch]))
                return False
            self._rows += rows
            self._items.append(item)
            return True

    def drain(self) -> tuple[list[_Predictions], list[_Labels]]:
        """Take all predictions and labels, in the order of arrival."""
        with self._lock:
            items, self._items, self._rows = self._items, [], 0
        predictions = [item for item in items if isinstance(item, _Predictions)]
        return predictions, [item for item in items if isinstance(item, _Labels)]

    def take_dropped(self) -> tuple[int, Counter[Assignment]]:
        """Return and reset the number of rows that had no room, and the rollouts' requests among them."""
        with self._lock:
            dropped = self._dropped, self._dropped_requests
            self._dropped, self._dropped_requests = 0, Counter()
            return dropped


class _NamedActor:
    """A named actor that may start and stop; when it is absent it is looked up again after a while."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._handle: ActorHandle[Any] | None = None
        self._next_lookup = 0.0

    def get(self) -> ActorHandle[Any] | None:
        if self._handle is None and time.monotonic() >= self._next_lookup:
            self._next_lookup = time.monotonic() + _RETRY_LOOKUP_S
            # A model can be served without a monitor.
            self._handle = find_actor(self._name)
        return self._handle

    def forget(self) -> None:
        self._handle, self._next_lookup = None, 0.0
