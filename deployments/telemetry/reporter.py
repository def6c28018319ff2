"""What a replica tells about its answers, off the request path: prediction log, labels, live profiles, metrics.

A request appends to a buffer; a thread of its own ships it every half second. A batch is kept until the ledger has
committed it and is sent again when the ledger dies, so the log lacks at most what a killed replica had not shipped: a
tally that outlives the replica says how much that was, and another replica has the ledger settle it. Buffers are
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
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from cluster.names import ACTOR_NAMESPACE, log_writer_actor, monitor_actor
from cluster.settings import load_settings
from deployments.protocol.open_inference import predicted_classes
from deployments.telemetry import unshipped_rows
from deployments.telemetry.metrics import ReplicaMetrics, ResponseKey
from deployments.telemetry.prediction_log import PredictionBatch, batch_id, label_rows, prediction_rows, to_ipc
from deployments.telemetry.resource_usage import UsageMeter
from features.definitions import Column
from features.profiles.profile import Profile

FLUSH_EVERY_S = 0.5
MAX_BUFFERED_ROWS = 50_000
# Of each flush, whose time is told; a histogram takes them one by one, and a sample has the same quantiles.
_TIMED_REPLIES = 32
_RETRY_LOOKUP_S = 5.0
_SETTLE_EVERY_S = 5.0
_USAGE_EVERY_S = 10.0
_SETTLE_WITHIN_S = 30.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _OutgoingBatch:
    """Rows on their way to the ledger; ``sent`` is None when it must be sent (again)."""

    kind: str
    id: str
    rows: int
    data: bytes
    sent: ray.ObjectRef | None = field(default=None)


class Reporter:
    """One replica's reporting. ``answered`` and ``labelled`` may be called from any thread, and return at once."""

    def __init__(self, model: str, under_way: Callable[[], int]) -> None:
        """``under_way`` tells how many requests are, those that wait included.

        Looks its peers up at once: to get an actor's handle loads its class, seconds of import, not to be had amid requests.
        """
        self._replica = uuid4().hex[:12]
        self._tallies = unshipped_rows.counter_folder(load_settings(), model)
        self._tally = unshipped_rows.UnshippedCounter(self._tallies, self._replica)
        self._next_search = 0.0
        self._buffer = _Buffer()
        self._ledger = _NamedActor(log_writer_actor(model))
        self._monitor = _NamedActor(monitor_actor(model))
        self._metrics = ReplicaMetrics(model, self._replica)
        self._under_way = under_way
        for peer in (self._ledger, self._monitor):
            peer.get()
        self._batches: list[_OutgoingBatch] = []
        self._sequence = 0
        self._replies: Counter[ResponseKey] = Counter()
        self._recent: deque[tuple[ResponseKey, float]] = deque(maxlen=_TIMED_REPLIES)
        self._told: Counter[ResponseKey] = Counter()
        self._unshadowed = 0
        self._answered = 0
        self._meter = UsageMeter(self._replica, ray.get_runtime_context().get_assigned_resources())
        self._next_usage = time.monotonic() + _USAGE_EVERY_S
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"telemetry-{model}", daemon=True)
        self._thread.start()

    def record_predictions(self, answer: PredictionBatch, columns: tuple[Column, ...], window_s: float | None) -> None:
        """Report an answer; ``columns`` are the model's inputs, ``window_s`` the width of a profile's window, None for none."""
        self._put("predictions", (answer, columns, window_s), answer.frame.num_rows)

    def record_labels(self, rows: pa.Table) -> None:
        """Report labels (feedback.parse_feedback)."""
        self._put("labels", (rows, time.time_ns() // 1000), rows.num_rows)

    def record_response(self, method: str, status: int, seconds: float) -> None:
        """Count an HTTP answer."""
        reply = ResponseKey(method, status)
        self._replies[reply] += 1
        self._recent.append((reply, seconds))

    def record_dropped_shadow(self) -> None:
        """Count a request that was not copied to the challenger, too many being under way."""
        self._unshadowed += 1

    def close(self, deadline_s: float) -> None:
        """Ship what is left; gives up after ``deadline_s`` seconds."""
        self._closing.set()
        self._thread.join(deadline_s)

    def _put(self, kind: str, item: tuple, rows: int) -> None:
        if self._buffer.put(item, rows):
            self._tally.add(kind, rows)

    def _run(self) -> None:
        while not self._closing.wait(FLUSH_EVERY_S):
            self._guarded_flush()
        self._guarded_flush()
        while self._batches:
            self._guarded_flush()
            self._closing_pause()
        self._tally.close()

    def _closing_pause(self) -> None:
        pending = [batch.sent for batch in self._batches if batch.sent is not None]
        if pending:
            ray.wait(pending, timeout=FLUSH_EVERY_S)
        else:
            time.sleep(FLUSH_EVERY_S)

    def _guarded_flush(self) -> None:
        # The thread must outlive whatever a flush runs into, or the replica reports nothing any more.
        try:
            self._flush()
        except Exception:
            _log.exception("telemetry of replica %s failed to flush", self._replica)

    def _flush(self) -> None:
        items = self._buffer.drain()
        reported = [item for item in items if isinstance(item[0], PredictionBatch)]
        groups = [list(group) for _, group in groupby(reported, key=lambda item: item[0].champion_version)]
        for group in groups:
            self._report([answer for answer, _, _ in group])
        for rows, received_us in (item for item in items if isinstance(item[0], pa.Table)):
            batch = self._next()
            self._queue("labels", batch, label_rows(rows, received_us, batch))
        self._metrics.dropped(self._buffer.take_dropped())
        replies = Counter(dict(self._replies))
        self._metrics.record_responses(replies - self._told, [self._recent.popleft() for _ in range(len(self._recent))])
        self._told = replies
        unshadowed, self._unshadowed = self._unshadowed, 0
        self._metrics.unshadowed(unshadowed)
        self._metrics.under_way(self._under_way())
        self._ship()
        self._tell_usage(sum(len(item[0].requests) for item in reported))
        # After the log: what a profile runs into must cost no log rows and no labels.
        for group in groups:
            self._profile(group)
        if time.monotonic() >= self._next_search and not self._closing.is_set():
            self._next_search = time.monotonic() + _SETTLE_EVERY_S
            self._settle_debts()

    def _report(self, answers: Sequence[PredictionBatch]) -> None:
        batch = self._next()
        self._queue("predictions", batch, prediction_rows(answers, batch))
        self._metrics.record_predictions(answers)

    def _profile(self, items: Sequence[tuple[PredictionBatch, tuple[Column, ...], float | None]]) -> None:
        answers = [answer for answer, _, _ in items]
        _, columns, window_s = items[-1]
        monitor = self._monitor.get()
        if monitor is not None and window_s is not None:
            for start_s, profile in window_profiles(answers, columns, window_s).items():
                monitor.observe.remote(answers[0].champion_version, start_s, profile.to_bytes())

    def _tell_usage(self, answered: int) -> None:
        """Now and then, and at the end; what was answered meanwhile is told with it."""
        self._answered += answered
        monitor = self._monitor.get()
        if monitor is not None and (time.monotonic() >= self._next_usage or self._closing.is_set()):
            self._next_usage = time.monotonic() + _USAGE_EVERY_S
            monitor.record_usage.remote(self._meter.read(self._answered))
            self._answered = 0

    def _next(self) -> str:
        self._sequence += 1
        return batch_id(self._replica, self._sequence)

    def _queue(self, kind: str, batch: str, rows: pa.Table) -> None:
        self._batches.append(_OutgoingBatch(kind, batch, rows.num_rows, to_ipc(rows)))
        while sum(b.rows for b in self._batches) > MAX_BUFFERED_ROWS:
            self._give_up(self._batches.pop(0))

    def _give_up(self, batch: _OutgoingBatch) -> None:
        self._metrics.dropped(batch.rows)
        self._tally.add(batch.kind, -batch.rows)

    def _ship(self) -> None:
        self._settle()
        ledger = self._ledger.get()
        if ledger is None:
            return
        for batch in self._batches:
            if batch.sent is None:
                batch.sent = ledger.append.remote(batch.kind, batch.id, batch.data)

    def _settle(self) -> None:
        """Forget what was committed; mark for sending again what was lost with the ledger."""
        for batch in list(self._batches):
            if batch.sent is None or not ray.wait([batch.sent], timeout=0)[0]:
                continue
            try:
                ray.get(batch.sent)
            except RayActorError:
                batch.sent = None
                self._ledger.forget()
                continue
            except RayTaskError as error:
                # The ledger refuses these rows for what they are: sending them again would not help.
                _log.error("the ledger refused batch %s: %s", batch.id, error)
                self._give_up(batch)
            self._batches.remove(batch)

    def _settle_debts(self) -> None:
        """Have the ledger count what replicas of this node that are dead took with them."""
        ledger = self._ledger.get()
        if ledger is None:
            return
        for debt in unshipped_rows.unsettled(self._tallies):
            ray.get(ledger.record_lost_rows.remote(debt.replica, debt.owed), timeout=_SETTLE_WITHIN_S)
            debt.forget()


def window_profiles(
    answers: Sequence[PredictionBatch], columns: tuple[Column, ...], window_s: float
) -> dict[float, Profile]:
    """Live profiles of the model's inputs and the champion's scores, by start of the event-time window, seconds."""
    multiclass = answers[0].task.kind == "multiclass"
    output = Column(name="predicted", kind="category") if multiclass else Column(name="score", kind="number")
    scored = [answer for answer in answers if answer.champion is not None]
    if not scored:
        return {}
    # In one piece: Arrow's kernels take a chunk at a time, and there is one for each answer.
    frame = pa.concat_tables([answer.frame for answer in scored]).combine_chunks()
    frame = frame.append_column(output.name, _output(scored))
    width_us = int(window_s * 1e6)
    # Not safe: the year 1, as a client that has no time sends it, has more microseconds than a float tells apart.
    at_us = frame["as_of"].cast(pa.int64()).cast(pa.float64(), safe=False)
    starts = pc.multiply(pc.floor(pc.divide(at_us, width_us)), window_s)
    distinct = pc.unique(starts).to_pylist()
    made: dict[float, Profile] = defaultdict(lambda: Profile.empty((*columns, output)))
    for start in distinct:
        made[start].update(frame if len(distinct) == 1 else frame.filter(pc.equal(starts, start)))
    return dict(made)


def _output(scored: Sequence[PredictionBatch]) -> pa.Array:
    """What the champion said: a class, or a number."""
    said = np.concatenate([answer.champion for answer in scored if answer.champion is not None])
    task = scored[0].task
    return pa.array(predicted_classes(task, said) if task.kind == "multiclass" else said.astype(np.float64))


class _Buffer:
    """A bounded queue of items that each stand for a number of rows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: deque[tuple] = deque()
        self._rows = 0
        self._dropped = 0

    def put(self, item: tuple, rows: int) -> bool:
        """False when there is no room."""
        with self._lock:
            if self._rows + rows > MAX_BUFFERED_ROWS:
                self._dropped += rows
                return False
            self._items.append(item)
            self._rows += rows
            return True

    def drain(self) -> list[tuple]:
        with self._lock:
            items, self._items, self._rows = list(self._items), deque(), 0
            return items

    def take_dropped(self) -> int:
        with self._lock:
            dropped, self._dropped = self._dropped, 0
            return dropped


class _NamedActor:
    """A named actor that may come and go; looked up again after a while when it is absent."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._handle: ActorHandle | None = None
        self._next_lookup = 0.0

    def get(self) -> ActorHandle | None:
        if self._handle is None and time.monotonic() >= self._next_lookup:
            self._next_lookup = time.monotonic() + _RETRY_LOOKUP_S
            try:
                self._handle = ray.get_actor(self._name, ACTOR_NAMESPACE)
            except ValueError:
                # Ray's way to say that there is no such actor: a model without a monitor is served all the same.
                self._handle = None
        return self._handle

    def forget(self) -> None:
        self._handle, self._next_lookup = None, 0.0
