"""Data-parallel training with Ray Train."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pyarrow as pa
import ray
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

from cluster.values import Task
from features.encoder import Encoder
from features.types import LABEL
from trainers import losses, metrics
from trainers.config import ModelSpec, TrainConfig
from trainers.data.batches import EncodedRows
from trainers.data.datasets import TrainingData
from trainers.data.encoding_task import label_array
from trainers.evaluation import calibration
from trainers.fitted_model import FittedModel
from trainers.imports.imported_model import ImportedModel
from trainers.input_spec import InputSpec
from trainers.loop.train_events import BlockResult, EpochResult, StepProgress, TrainResult, Weights
from trainers.loop.train_spec import Teacher, TrainSpec
from trainers.loop.validation import measure, score_rows
from trainers.loop.worker_group import capacity_warning, run_worker_group, workers_of_one_node
from trainers.models import model_builder
from trainers.models.scoring_module import ScoringModule
from trainers.selection.auto_parameters import check_auto
from trainers.selection.ensemble_model import build_fitted
from trainers.selection.selection import Selection
from trainers.trees.parameters import check_settings, pool_workers

TRAIN_SAMPLE_ROWS = 50_000
"""Training rows on which the trained model is measured."""

LINE_INTERVAL_S = 5.0
"""Seconds between progress lines within an epoch."""

PrintLine = Callable[[str], None]
OnEvent = Callable[[EpochResult | StepProgress], None]


@dataclass(frozen=True)
class FitRequest:
    """What to fit, apart from the data: a TrainSpec whose inputs are not measured yet."""

    spec: ModelSpec
    config: TrainConfig
    task: Task
    encoder: Encoder
    start: Weights | None = None
    """Initial weights, or trees that continue; drawn at random, or none, by default."""
    teacher: Teacher | None = None
    """Teacher for knowledge distillation."""
    inputs: InputSpec | None = None
    """Statistics of the rows that ``start`` was trained on, whose scale it keeps; default: those of the data."""


@dataclass(frozen=True)
class FitResult:
    """A trained model: the weights of its best epoch, and its training history."""

    spec: ModelSpec
    config: TrainConfig
    task: Task
    encoder: Encoder
    inputs: InputSpec
    state: Weights
    epochs: tuple[EpochResult, ...]
    metrics: dict[str, float]
    """Metrics of the best epoch on all validation rows."""
    train_metrics: dict[str, float]
    """Metrics on at most 50,000 evenly spaced training rows."""
    seconds: dict[str, float]
    """Wall-clock seconds: "encode", "train", "validate", "start and end" (the rest) and "total"."""
    temperature: float = 1.0
    """Divides the logits (temperature scaling)."""
    synthetic_rows: int = 0
    """Synthetic rows of rare classes that it was trained on."""
    import_parity: float = 0.0
    """Of an imported model: largest difference between its graph's scores and its own, before it was imported."""
    model: FittedModel | None = None
    """Of a Python model: what scores with it, in another process."""

    def build_model(self) -> FittedModel:
        """The trained model, of whatever kind."""
        if self.model is not None:
            return self.model
        if self.spec.is_imported:
            return ImportedModel(self.state[ImportedModel.STATE].tobytes())
        return build_fitted(self.spec, self.task, self.inputs, self.state, self.temperature)

    @property
    def selection(self) -> Selection | None:
        """The race that chose the model; None if there was none."""
        return Selection.from_state(self.state) if self.spec.is_auto else None

    def with_selection(self, selection: Selection) -> FitResult:
        """The same race with another ensemble served."""
        states = Selection.from_state(self.state).member_states(self.state)
        return replace(self, state=selection.to_state(states), metrics=selection.served.metrics)

    def build_module(self) -> nn.Module:
        """The trained module, in evaluation mode."""
        return model_builder.load(self.spec, self.inputs, self.task, self.state)

    def build_scorer(self) -> ScoringModule:
        """The trained module with scores as its output, in evaluation mode."""
        return ScoringModule(self.build_module(), self.task, self.inputs, self.temperature).eval()


def fit(
    request: FitRequest,
    data: TrainingData,
    print_line: PrintLine = print,
    *,
    name: str = "fit",
    on_event: OnEvent = lambda event: None,
    checkpoints: str = "",
) -> FitResult:
    """Train a model on ``config.workers`` workers.

    Args:
        request: What to fit.
        data: Training and validation rows.
        print_line: Receives progress as lines for people.
        name: Label of the training's metrics in the Ray dashboard.
        on_event: Receives each epoch, and progress within an epoch about once a second.
        checkpoints: A folder or URI that every node can reach. A fit that was killed resumes when it is called again
            with the same arguments. The caller deletes it.

    Returns:
        The trained model.

    Raises:
        ProjectError: Model and settings do not fit the task or the data.
        DataError: The rows cannot be encoded, or training does not converge to finite values.
        RayloopError: A worker died more than ``config.restarts`` times.
    """
    task, config = request.task, request.config
    calibration.require_probabilities(task, config.calibrate)
    if not request.spec.is_module:
        (check_auto if request.spec.is_auto else check_settings)(request.spec, config)
        config = pool_workers(config, workers_of_one_node(config))
    started = time.perf_counter()
    encoded_data = data.encode(request.encoder, task, config.cache_mib).with_synthetic_rows(config, task)
    if encoded_data.synthetic_rows:
        print_line(f"training on {encoded_data.synthetic_rows:,} synthetic rows of rare classes")
    if not request.spec.is_auto:
        model_builder.check(request.spec, encoded_data.inputs, task)
    encode_seconds = time.perf_counter() - started
    inputs = encoded_data.inputs
    if request.inputs is not None:
        ours = {"class_shares": inputs.class_shares, "logit_shift": inputs.logit_shift}
        inputs = request.inputs.model_copy(update=ours)
    losses.class_weights(task, config, inputs)
    if warning := capacity_warning(config.min_workers or config.workers, config.cpus_per_worker):
        print_line(warning)
    spec = TrainSpec(request.spec, config, task, inputs, request.start, request.teacher)
    reporter = _ProgressReporter(print_line, metrics.primary_metric(task).name, on_event)
    with _event_queue(reporter) as queue:
        outcome = run_worker_group(spec, encoded_data, queue=queue, name=name, checkpoints=checkpoints)
    if (last := outcome.epochs[-1]).number < last.of:
        print_line(_describe_stop(last, config))
    result = FitResult(
        spec=request.spec,
        config=request.config,
        task=task,
        encoder=request.encoder,
        inputs=inputs,
        state=outcome.state,
        epochs=outcome.epochs,
        metrics=outcome.best.metrics,
        train_metrics={},
        synthetic_rows=encoded_data.synthetic_rows,
        seconds=_split_seconds(outcome, encode_seconds, time.perf_counter() - started),
    )
    rows = encoded_data.sample().thin(TRAIN_SAMPLE_ROWS)
    return replace(result, train_metrics=measure(result.build_model(), task, rows))


def calibrate(result: FitResult, validation: pa.Table) -> FitResult:
    """The same model with a temperature fitted on ``validation``, if its settings request calibration."""
    if result.config.calibrate == "none":
        return result
    labels = label_array(validation[LABEL])
    scores = score_rows(result.build_model(), EncodedRows(**result.encoder.encode(validation), labels=labels))
    return replace(result, temperature=calibration.fit_temperature(result.task, scores, labels))


def _describe_stop(last: EpochResult, config: TrainConfig) -> str:
    if isinstance(last, BlockResult):
        return f"stopped early after {last.rounds} rounds: no improvement"
    return f"stopped early after {last.number} of {last.of} epochs: no improvement in {config.patience} epochs"


def _split_seconds(result: TrainResult, encode: float, total: float) -> dict[str, float]:
    train = sum(epoch.train_seconds for epoch in result.epochs)
    validation = sum(epoch.validation_seconds for epoch in result.epochs)
    parts = {"encode": encode, "train": train, "validate": validation}
    return parts | {"start and end": total - sum(parts.values()), "total": total}


class _ProgressReporter:
    """Prints the events of workers: each epoch, and progress within an epoch every five seconds."""

    def __init__(self, print_line: PrintLine, metric: str, on_event: OnEvent) -> None:
        self._print_line, self._metric, self._on_event = print_line, metric, on_event
        self._last_line = time.monotonic()

    def __call__(self, event: EpochResult | StepProgress) -> None:
        self._on_event(event)
        now = time.monotonic()
        if isinstance(event, EpochResult):
            self._print_line(event.format(self._metric))
        elif event.resumed or now - self._last_line >= LINE_INTERVAL_S:
            self._print_line(event.format())
        else:
            return
        self._last_line = now


@contextmanager
def _event_queue(receive: OnEvent) -> Iterator[Queue]:
    """A queue for the events of workers; ``receive`` is called in this process for each."""
    # On this process's node: the loss of another one must not end the training.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def drain() -> None:
        while (event := queue.get()) is not None:
            receive(event)

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        queue.put(None)
        thread.join()
        queue.shutdown(force=True)
