"""Data-parallel training with Ray Train."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from ray.util.queue import Queue
from torch import nn

from cluster.contracts import Task
from cluster.errors import ProjectError
from features.encoding import Encoder
from features.frame import LABEL
from trainers import calibration, loop, models, tasks
from trainers.config import ModelSpec, TrainConfig
from trainers.data import TrainingData
from trainers.feed import MemoryHeldOut, Rows
from trainers.inputs import InputSpec
from trainers.loop import Epoch, Job, State
from trainers.workers import on_workers

TRAIN_SAMPLE_ROWS = 50_000

Progress = Callable[[str], None]


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
        module = models.build(self.spec, self.inputs, self.task)
        module.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in self.state.items()})
        return module.eval()

    def scored(self) -> models.Scored:
        """The trained module with scores as its output."""
        return models.Scored(self.module(), self.task, self.inputs, self.temperature).eval()


def fit(
    spec: ModelSpec,
    config: TrainConfig,
    task: Task,
    encoder: Encoder,
    data: TrainingData,
    progress: Progress = print,
) -> FitResult:
    """Train on ``config.workers`` workers. Raises ProjectError, DataError, or RayloopError for a worker that died."""
    if config.calibrate != "none" and task.kind == "regression":
        raise ProjectError(f"calibrate={config.calibrate!r}: a regression has no probabilities", "leave calibrate out")
    started = time.perf_counter()
    encoded = data.encoded(encoder, task, config.cache_mib)
    models.build(spec, encoded.inputs, task)
    encode_seconds = time.perf_counter() - started
    metric = tasks.primary(task).name
    with _channel(lambda epoch: progress(epoch.line(metric))) as queue:
        outcome = on_workers(Job(spec, config, task, encoded.inputs), encoded, queue=queue)
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
    arrays, labels = result.encoder.encode(validation), validation[LABEL].to_numpy().astype(np.float32)
    rows = Rows(arrays["numbers"], arrays["codes"], labels)
    scores, _ = loop.gather(result.scored(), result.task, MemoryHeldOut(rows), loop.World())
    return replace(result, temperature=calibration.fit_temperature(result.task, scores, labels))


def _on_sample(result: FitResult, rows: Rows) -> dict[str, float]:
    return loop.validate(result.scored(), result.task, MemoryHeldOut(rows), loop.World())


@contextmanager
def _channel(receive: Callable[[Epoch], None]) -> Iterator[Queue]:
    """A queue that workers put epochs on; ``receive`` is called here for each, as it comes."""
    queue = Queue(actor_options={"num_cpus": 0})

    def drain() -> None:
        while (epoch := queue.get()) is not None:
            receive(epoch)

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        queue.put(None)
        thread.join()
        queue.shutdown(force=True)
