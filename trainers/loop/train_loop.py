"""The training loop: the same in a trial's own process and in each worker of a data-parallel job.

It knows nothing of Ray. ``ProcessGroup`` hides the difference between the two; data come from loaders.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from cluster.errors import DataError
from trainers import losses, metrics
from trainers.data.batches import Batch, BatchLoader, ValidationLoader
from trainers.data.device_transfer import to_device
from trainers.data.noise import noisy_batches
from trainers.loop import rng_state
from trainers.loop.checkpoint_state import capture_state, restore_state
from trainers.loop.checkpointer import Checkpointer, load_checkpoint
from trainers.loop.process_group import ProcessGroup
from trainers.loop.stage_timer import StageTimer
from trainers.loop.train_events import EpochResult, StepProgress, TrainResult, Weights
from trainers.loop.train_spec import Teacher, TrainSpec
from trainers.loop.train_state import BestWeights, TrainState
from trainers.loop.train_step import Loss, Stepper
from trainers.loop.validation import validate
from trainers.models import model_builder
from trainers.models.scoring_module import ScoringModule

PROGRESS_INTERVAL_S = 1.0
"""Seconds between progress events."""

OnProgress = Callable[[StepProgress], None]


def train(
    spec: TrainSpec,
    loader: BatchLoader,
    held_out: ValidationLoader,
    group: ProcessGroup,
    on_epoch: Callable[[EpochResult], None],
    on_progress: OnProgress = lambda progress: None,
    checkpointer: Checkpointer | None = None,
    pause_after: int = 0,
    out_of_time: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Train, validate after every epoch, and keep the best weights; resume from the newest checkpoint, if any.

    Args:
        spec: What to train.
        loader: This worker's training batches.
        held_out: This worker's share of the validation rows.
        group: This worker's process group.
        on_epoch: Receives each epoch's result, on every worker.
        on_progress: Receives progress about once a second, on the first worker.
        checkpointer: Where checkpoints are; None writes none.
        pause_after: Epoch after which to return early; 0 trains to the end.
        out_of_time: Whether training has to end, which it does after a validation; asked after each step. For training
            in a single process.

    Returns:
        The best weights, on the first worker, and all epochs so far.

    Raises:
        DataError: Loss or metric is not a number, or the checkpoint belongs to a different training.
    """
    training = _Training(spec, loader, held_out, group, on_progress, checkpointer, out_of_time)
    return training.run(on_epoch, pause_after)


class _Training:
    """One worker's part of a training."""

    def __init__(
        self,
        spec: TrainSpec,
        loader: BatchLoader,
        held_out: ValidationLoader,
        group: ProcessGroup,
        on_progress: OnProgress,
        checkpointer: Checkpointer | None,
        out_of_time: Callable[[], bool],
    ) -> None:
        self._spec, self._held_out, self._group = spec, held_out, group
        self._loader = noisy_batches(to_device(loader, group.device), spec.config, spec.inputs, group.rank)
        self._on_progress, self._checkpointer, self._out_of_time = on_progress, checkpointer, out_of_time
        # Building a teacher draws random numbers: it comes before the student's generators are seeded.
        loss = _make_loss(spec, group)
        self._module = _build_module(spec, group)
        self._scorer = ScoringModule(self._module, spec.task, spec.inputs)
        self._timer = StageTimer(group.device)
        steps = spec.config.epochs * loader.steps
        self._save_every = spec.config.checkpoint_interval(steps)
        self._step = Stepper(group.wrap(self._module), spec.config, loss, steps, group, self._timer)
        self._metric = metrics.primary_metric(spec.task)
        best, no_loss = BestWeights(self._metric.worst), torch.zeros((), device=group.device)
        self._state = TrainState(best, no_loss, loader.steps)
        self._last_progress = 0.0

    def run(self, on_epoch: Callable[[EpochResult], None], pause_after: int) -> TrainResult:
        self._resume()
        config, epochs = self._spec.config, self._state.epochs
        while not self._state.is_over(config) and not 0 < pause_after <= len(epochs):
            on_epoch(self._run_epoch())
            if config.checkpoint_epochs and len(epochs) % config.checkpoint_epochs == 0:
                self._save()
            if self._out_of_time():
                break
        if self._checkpointer is not None:
            self._checkpointer.wait()
        return self._state.result()

    def _run_epoch(self) -> EpochResult:
        """Take the remaining steps of an epoch, then validate."""
        number, timer = len(self._state.epochs) + 1, self._timer
        self._step.use(self._spec.config.for_epoch(number))
        lr = self._step.lr
        timer.start_epoch(self._state.earlier_seconds)
        loss = self._run_steps(number)
        if not np.isfinite(loss):
            raise DataError("data.loss_not_finite", epoch=number, loss=loss)
        train_seconds, stage_seconds = timer.elapsed, timer.seconds
        validation = self._validate()
        value = validation[self._metric.name]
        if np.isnan(value):
            raise DataError("data.metric_undefined", metric=self._metric.name)
        best = self._state.offer(self._metric, value, self._group.module_state(self._module))
        epoch = EpochResult(
            number=number,
            of=self._spec.config.epochs,
            loss=loss,
            metrics=validation,
            lr=lr,
            rows_per_second=self._loader.rows / train_seconds,
            train_seconds=train_seconds,
            validation_seconds=timer.elapsed - train_seconds,
            best=best,
            best_so_far=self._state.best.value,
            seconds=stage_seconds,
        )
        self._state.end(epoch)
        return epoch

    def _resume(self) -> None:
        """Continue from the newest checkpoint that the first worker reads."""
        group, state = self._group, self._state
        body = self._checkpointer.read_newest() if self._checkpointer is not None and not group.rank else None
        if (body := group.broadcast(body)) is None:
            return
        self._form_buckets()
        restore_state(load_checkpoint(body), self._spec, group, self._module, self._step, state)
        if not group.rank:
            self._on_progress(self._progress(state.earlier_seconds).model_copy(update={"resumed": True}))

    def _run_steps(self, number: int) -> float:
        """Returns the mean loss of the epoch over all workers."""
        self._scorer.train()
        state, every = self._state, self._save_every
        for batch in self._loader.epoch(number, state.at):
            self._timer.mark("data")
            state.loss += self._step(batch)
            state.at += 1
            if every and self._step.steps_done % every == 0:
                self._save()
            self._report_progress()
            self._timer.step()
            if self._out_of_time():
                break
        return float(self._group.all_reduce(state.loss)) / (state.at * self._group.size)

    def _validate(self) -> dict[str, float]:
        self._scorer.eval()
        self._group.sync_buffers(self._module)
        return validate(self._scorer, self._spec.task, self._held_out, self._group)

    def _save(self) -> None:
        """Copy the state; it is written while training continues."""
        if self._checkpointer is None:
            return
        with self._timer.measure("checkpoint"):
            seconds = self._timer.seconds
            stored = capture_state(self._spec, self._group, self._module, self._step, self._state, seconds)
            if not self._group.rank:
                self._checkpointer.save(self._step.steps_done, stored)

    def _form_buckets(self) -> None:
        """Run one backward pass whose gradients are discarded.

        DDP fixes the order in which it sums gradients in its first backward pass; without this, a resumed training
        would differ in the last bits.
        """
        self._scorer.train()
        self._step.gradients(next(iter(self._loader.epoch(1))))
        self._step.optimizer.zero_grad(set_to_none=True)

    def _report_progress(self) -> None:
        now = time.monotonic()
        if self._group.rank or now - self._last_progress < PROGRESS_INTERVAL_S:
            return
        self._last_progress = now
        self._on_progress(self._progress(self._timer.seconds))

    def _progress(self, seconds: dict[str, float]) -> StepProgress:
        return self._state.progress(self._spec.config, self._loader.rows, self._group.size, self._step.lr, seconds)


def _build_module(spec: TrainSpec, group: ProcessGroup) -> nn.Module:
    """Give all workers the same weights; then each draws dropout from its own generator."""
    rng_state.seed(spec.config.seed)
    module = _load_weights(model_builder.build(spec.model, spec.inputs, spec.task), spec.start).to(group.device)
    if spec.config.compile:
        module.compile()
    rng_state.seed(group.worker_seed(spec.config.seed))
    return module


def _load_weights(module: nn.Module, weights: Weights | None) -> nn.Module:
    if weights is not None:
        module.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    return module


def _make_loss(spec: TrainSpec, group: ProcessGroup) -> Loss:
    shift, scale = spec.inputs.label_mean, spec.inputs.label_std
    weights = losses.class_weights(spec.task, spec.config, spec.inputs)
    weights = None if weights is None else weights.to(group.device)

    def label_loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        labels = (batch.labels - shift) / scale if spec.task.kind == "regression" else batch.labels
        return losses.batch_loss(spec.task, logits, labels, weights, batch.weights)

    return label_loss if spec.teacher is None else _distill(spec, spec.teacher, group, label_loss)


def _distill(spec: TrainSpec, teacher: Teacher, group: ProcessGroup, label_loss: Loss) -> Loss:
    """A student's loss: the weighted mean of the distillation loss and ``label_loss``."""
    module = _load_weights(model_builder.build(teacher.model, spec.inputs, spec.task), teacher.state)
    module = module.to(group.device).eval()

    def loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            teacher_logits = module(batch.numbers, batch.codes).float()
        distillation = losses.distillation_loss(spec.task, logits, teacher_logits, teacher.temperature)
        return teacher.weight * distillation + (1 - teacher.weight) * label_loss(logits, batch)

    return loss
