"""Data-parallel training with Ray Train."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pyarrow as pa
import torch
from ray.util.queue import Queue
from torch import nn

from cluster.values import Task
from features.encoder import Encoder
from features.offline.training_frame import LABEL
from trainers import losses
from trainers import metrics as task_metrics
from trainers.config import ModelSpec, TrainConfig
from trainers.data.batches import MemoryHeldOut, Rows
from trainers.data.datasets import TrainingData
from trainers.data.encoding_task import label_array
from trainers.evaluation import calibration
from trainers.input_spec import InputSpec
from trainers.loop.process_group import World
from trainers.loop.train_events import Epoch, Pulse, State
from trainers.loop.train_spec import Job, Teacher
from trainers.loop.validation import gather, validate
from trainers.loop.worker_group import no_room, on_workers
from trainers.models import registry

TRAIN_SAMPLE_ROWS = 50_000

LINE_S = 5.0

Progress = Callable[[str], None]
Watch = Callable[[Epoch | Pulse], None]


@dataclass(frozen=True)
class FitResult:
    """A trained model: weights of its best epoch, and how it came about. ``temperature`` divides its logits.

    ``train_metrics`` are measured on at most 50,000 evenly spaced training rows, ``metrics`` on all validation rows.
    ``seconds``, by the wall clock: "encode", "train", "validate", "start and end" (all else) and "total".
    """

    spec: ModelSpec
    config: TrainConfig
    task: Task
    encoder: Encoder
    inputs: InputSpec
    state: State
    epochs: tuple[Epoch, ...]
    metrics: dict[str, float]
    train_metrics: dict[str, float]
    seconds: dict[str, float]
    temperature: float = 1.0

    def module(self) -> nn.Module:
        """The trained module, ready to predict."""
        module = registry.build(self.spec, self.inputs, self.task)
        module.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in self.state.items()})
        return module.eval()

    def scored(self) -> registry.Scored:
        """The trained module with scores as its output."""
        return registry.Scored(self.module(), self.task, self.inputs, self.temperature).eval()


def fit(
    spec: ModelSpec,
    config: TrainConfig,
    task: Task,
    encoder: Encoder,
    data: TrainingData,
    progress: Progress = print,
    *,
    name: str = "fit",
    watch: Watch = lambda seen: None,
    checkpoints: str = "",
    start: State | None = None,
    teacher: Teacher | None = None,
) -> FitResult:
    """Train on ``config.workers`` workers. Raises ProjectError, DataError, or RayloopError for a worker that died once too often.

    ``watch`` gets each epoch, and about every second how it goes; metrics in Ray's dashboard carry ``name``. A folder or URI for
    ``checkpoints`` lets a fit that was killed go on when it is called again with the same arguments; it must be reachable from
    every node. It is the caller's to remove. ``start`` and ``teacher`` are those of Job.
    """
    calibration.require_probabilities(task, config.calibrate)
    started = time.perf_counter()
    encoded = data.encoded(encoder, task, config.cache_mib)
    registry.check(spec, encoded.inputs, task)
    encode_seconds = time.perf_counter() - started
    metric = task_metrics.primary(task).name
    losses.class_weights(task, config, encoded.inputs)
    if told := no_room(config.min_workers or config.workers, config.cpus_per_worker):
        progress(told)
    with _channel(_Teller(progress, metric, watch)) as queue:
        job = Job(spec, config, task, encoded.inputs, start, teacher)
        outcome = on_workers(job, encoded, queue=queue, name=name, checkpoints=checkpoints)
    if (done := len(outcome.epochs)) < config.epochs:
        progress(f"stopped after {done} of {config.epochs} epochs: none of the last {config.patience} was better")
    fitted = time.perf_counter() - started
    train_seconds = sum(epoch.train_seconds for epoch in outcome.epochs)
    validation_seconds = sum(epoch.validation_seconds for epoch in outcome.epochs)
    result = FitResult(
        spec=spec,
        config=config,
        task=task,
        encoder=encoder,
        inputs=encoded.inputs,
        state=outcome.state,
        epochs=outcome.epochs,
        metrics=outcome.best.metrics,
        train_metrics={},
        seconds={
            "encode": encode_seconds,
            "train": train_seconds,
            "validate": validation_seconds,
            "start and end": fitted - encode_seconds - train_seconds - validation_seconds,
            "total": fitted,
        },
    )
    return replace(result, train_metrics=_on_sample(result, encoded.sample().every(TRAIN_SAMPLE_ROWS)))


def calibrated(result: FitResult, validation: pa.Table) -> FitResult:
    """The same model with the temperature that suits its validation rows, where its settings ask for one."""
    if result.config.calibrate == "none":
        return result
    arrays, labels = result.encoder.encode(validation), label_array(validation[LABEL])
    rows = Rows(arrays["numbers"], arrays["codes"], labels)
    scores, _ = gather(result.scored(), result.task, MemoryHeldOut(rows), World())
    return replace(result, temperature=calibration.fit_temperature(result.task, scores, labels))


def _on_sample(result: FitResult, rows: Rows) -> dict[str, float]:
    return validate(result.scored(), result.task, MemoryHeldOut(rows), World())


class _Teller:
    """Puts what workers say into lines: every epoch, and every five seconds what goes on within one."""

    def __init__(self, progress: Progress, metric: str, watch: Watch) -> None:
        self._progress, self._metric, self._watch = progress, metric, watch
        self._said = time.monotonic()

    def __call__(self, seen: Epoch | Pulse) -> None:
        self._watch(seen)
        now = time.monotonic()
        if isinstance(seen, Epoch):
            self._progress(seen.line(self._metric))
        elif seen.resumed or now - self._said >= LINE_S:
            self._progress(seen.line())
        else:
            return
        self._said = now


@contextmanager
def _channel(receive: Watch) -> Iterator[Queue]:
    """A queue that workers put epochs and pulses on; ``receive`` is called here for each, as it comes."""
    queue = Queue(actor_options={"num_cpus": 0})

    def drain() -> None:
        while (seen := queue.get()) is not None:
            receive(seen)

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        queue.put(None)
        thread.join()
        queue.shutdown(force=True)
