"""The train function: the same in a trial's own process and in each worker of a data-parallel job.

It knows nothing of Ray. What differs between the two is behind ``World``; data come through ``Feed``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from cluster.errors import DataError
from trainers import losses
from trainers import metrics as task_metrics
from trainers.data.batches import Batch, Feed, HeldOut
from trainers.data.device_transfer import placed
from trainers.loop import rng_state, state_dict
from trainers.loop.checkpointer import Checkpoints, loaded
from trainers.loop.process_group import World
from trainers.loop.stage_timer import Clock
from trainers.loop.train_events import Epoch, Outcome, Pulse, State
from trainers.loop.train_spec import Job, Teacher
from trainers.loop.train_state import Best, Progress
from trainers.loop.train_step import Loss, Stepper
from trainers.loop.validation import validate
from trainers.models import registry

PULSE_S = 1.0

Tell = Callable[[Pulse], None]


def train(
    job: Job,
    feed: Feed,
    held_out: HeldOut,
    world: World,
    report: Callable[[Epoch], None],
    tell: Tell = lambda pulse: None,
    checkpoints: Checkpoints | None = None,
    until: int = 0,
) -> Outcome:
    """Train, validate after every epoch, keep the best; go on from the newest of ``checkpoints``, when there is one.

    It pauses after epoch ``until``, 0 never: the newest checkpoint is then of that epoch's end.
    On the first worker ``tell`` hears about once a second how it goes. Raises DataError when loss or metric is not a number,
    or a checkpoint is of another training.
    """
    training = _Training(job, feed, held_out, world, tell, checkpoints)
    training.resume()
    while not training.over and not 0 < until <= training.done:
        report(training.epoch())
        training.save_after_epoch()
    return training.outcome()


class _Training:
    """One worker's part in a training."""

    def __init__(
        self, job: Job, feed: Feed, held_out: HeldOut, world: World, tell: Tell, checkpoints: Checkpoints | None
    ) -> None:
        self._job, self._feed, self._held_out, self._world = job, placed(feed, world.device), held_out, world
        self._tell, self._checkpoints = tell, checkpoints
        # It draws weights that are replaced: before the seeds are set, so that a student's are its own.
        loss = _loss(job, world)
        self._module = _module(job, world)
        self._scored = registry.Scored(self._module, job.task, job.inputs)
        self._clock = Clock(world.device)
        steps = job.config.epochs * feed.steps
        self._step = Stepper(world.wrap(self._module), job.config, loss, steps, world, self._clock)
        self._metric = task_metrics.primary(job.task)
        self._progress = Progress(Best(self._metric.worst), torch.zeros((), device=world.device))
        self._told = 0.0

    @property
    def over(self) -> bool:
        return self._progress.over(self._job.config)

    @property
    def done(self) -> int:
        """Epochs that are over."""
        return len(self._progress.epochs)

    def outcome(self) -> Outcome:
        """Once all that is to be kept is written."""
        if self._checkpoints is not None:
            self._checkpoints.wait()
        return self._progress.outcome()

    def epoch(self) -> Epoch:
        """Take the steps that are left of an epoch, then validate."""
        number, clock = self.done + 1, self._clock
        self._step.use(self._job.config.during(number))
        lr = self._step.lr
        clock.begin(self._progress.spent)
        loss = _finite(self._steps(number), number)
        trained, seconds = clock.elapsed, clock.seconds
        metrics = self._validated()
        value = _defined(metrics, self._metric.name)
        best = self._progress.offer(self._metric, value, self._world.weights(self._module))
        epoch = Epoch(
            number=number,
            of=self._job.config.epochs,
            loss=loss,
            metrics=metrics,
            lr=lr,
            rows_per_second=self._feed.rows / trained,
            train_seconds=trained,
            validation_seconds=clock.elapsed - trained,
            best=best,
            best_so_far=self._progress.best.value,
            seconds=seconds,
        )
        self._progress.end(epoch)
        return epoch

    def save_after_epoch(self) -> None:
        every = self._job.config.checkpoint_epochs
        if every and self.done % every == 0:
            self._save()

    def resume(self) -> None:
        """Go on from the newest checkpoint that the first worker finds."""
        body = self._checkpoints.newest() if self._checkpoints is not None and not self._world.rank else None
        if (body := self._world.of_first(body)) is None:
            return
        self._form_buckets()
        progress, steps = self._progress, self._feed.steps
        state_dict.restore(loaded(body), self._job, self._world, self._module, self._step, progress, steps)
        if not self._world.rank:
            self._tell(self._pulse(progress.spent).model_copy(update={"resumed": True}))

    def _steps(self, number: int) -> float:
        """Returns the mean loss of the epoch over all workers."""
        self._scored.train()
        progress, every = self._progress, self._job.config.checkpoint_steps
        for batch in self._feed.epoch(number, progress.at):
            self._clock.mark("data")
            progress.loss += self._step(batch)
            progress.at += 1
            if every and self._step.done % every == 0:
                self._save()
            self._tell_now_and_then()
            self._clock.step()
        return float(self._world.total(progress.loss)) / (self._feed.steps * self._world.size)

    def _validated(self) -> dict[str, float]:
        self._scored.eval()
        self._world.even_out(self._module)
        return validate(self._scored, self._job.task, self._held_out, self._world)

    def _save(self) -> None:
        """Copy where training stands; the copy is written while training goes on."""
        if self._checkpoints is None:
            return
        with self._clock.during("checkpoint"):
            steps, spent = self._feed.steps, self._clock.seconds
            saved = state_dict.take(self._job, self._world, self._module, self._step, self._progress, steps, spent)
            if not self._world.rank:
                self._checkpoints.save(self._step.done, saved)

    def _form_buckets(self) -> None:
        """DDP sets the order in which gradients are summed by its first backward pass: let that be one that does not count."""
        self._scored.train()
        self._step.gradients(next(iter(self._feed.epoch(1))))
        self._step.optimiser.zero_grad(set_to_none=True)

    def _tell_now_and_then(self) -> None:
        if self._world.rank or self._clock.now - self._told < PULSE_S:
            return
        self._told = self._clock.now
        self._tell(self._pulse(self._clock.seconds))

    def _pulse(self, seconds: dict[str, float]) -> Pulse:
        feed, config = self._feed, self._job.config
        return self._progress.pulse(config, feed.steps, feed.rows, self._world.size, self._step.lr, seconds)


def _module(job: Job, world: World) -> nn.Module:
    """Built alike on all workers; from then on each draws dropout from a generator of its own."""
    rng_state.seed(job.config.seed)
    module = _loaded(registry.build(job.spec, job.inputs, job.task), job.start).to(world.device)
    if job.config.compile:
        module.compile()
    rng_state.seed(world.seed(job.config.seed))
    return module


def _loaded(module: nn.Module, state: State | None) -> nn.Module:
    if state is not None:
        module.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    return module


def _loss(job: Job, world: World) -> Loss:
    shift, scale = job.inputs.label_mean, job.inputs.label_std
    weights = losses.class_weights(job.task, job.config, job.inputs)
    weights = None if weights is None else weights.to(world.device)

    def of_labels(logits: torch.Tensor, part: Batch) -> torch.Tensor:
        labels = (part.labels - shift) / scale if job.task.kind == "regression" else part.labels
        return losses.loss(job.task, logits, labels, weights)

    return of_labels if job.teacher is None else _taught(job, job.teacher, world, of_labels)


def _taught(job: Job, teacher: Teacher, world: World, of_labels: Loss) -> Loss:
    """The loss of a student: in part by what its teacher says of the same rows, without dropout."""
    module = _loaded(registry.build(teacher.spec, job.inputs, job.task), teacher.state).to(world.device).eval()

    def loss(logits: torch.Tensor, part: Batch) -> torch.Tensor:
        with torch.no_grad():
            taught = module(part.numbers, part.codes).float()
        told = losses.distilled(job.task, logits, taught, teacher.temperature)
        return teacher.weight * told + (1 - teacher.weight) * of_labels(logits, part)

    return loss


def _finite(loss: float, number: int) -> float:
    if not np.isfinite(loss):
        raise DataError(
            f"the training loss is {loss} in epoch {number}",
            "lower lr, or look for infinite values, and for missing ones that the model does not expect",
        )
    return loss


def _defined(metrics: dict[str, float], metric: str) -> float:
    if np.isnan(metrics[metric]):
        raise DataError(f"the validation rows do not define {metric}", "they need rows of more than one class")
    return metrics[metric]
