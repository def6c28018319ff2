"""The train function: the same in a trial's own process and in each worker of a data-parallel job.

It knows nothing of Ray. What differs between the two is behind ``World``; data come through ``Feed``.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from cluster.contracts import Frozen, Task
from cluster.errors import DataError
from trainers import losses, models, tasks
from trainers.config import ModelSpec, TrainConfig
from trainers.feed import Feed, HeldOut
from trainers.inputs import InputSpec
from trainers.step import Stepper

State = dict[str, np.ndarray]


class World:
    """One process alone. fit.py has the one for many."""

    rank = 0
    size = 1

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose backward pass averages gradients over all workers."""
        return module

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over all workers, the same bits on each."""
        return tensor


@dataclass(frozen=True)
class Job:
    """What to train, without the data."""

    spec: ModelSpec
    config: TrainConfig
    task: Task
    inputs: InputSpec


class Epoch(Frozen):
    """What is known at the end of an epoch. Seconds are of this epoch; ``loss`` is the mean training loss.

    ``best_so_far`` is the best value of the task's primary metric up to here; ``best`` says that it is this epoch's.
    """

    number: int
    of: int
    loss: float
    metrics: dict[str, float]
    lr: float
    rows_per_second: float
    train_seconds: float
    validation_seconds: float
    best: bool
    best_so_far: float

    def line(self, metric: str) -> str:
        left = (self.of - self.number) * (self.train_seconds + self.validation_seconds)
        return (
            f"epoch {self.number}/{self.of}  loss {self.loss:.4f}  validation {metric} {self.metrics[metric]:.4f}"
            f"{' *' if self.best else '  '}  {self.rows_per_second:,.0f} rows/s  {left:.0f} s left"
        )

    def report(self) -> dict[str, float]:
        """The flat form that Ray's report functions take."""
        return {
            "epoch": self.number,
            "epochs": self.of,
            "loss": self.loss,
            "best_so_far": self.best_so_far,
            **self.metrics,
        }


@dataclass(frozen=True)
class Outcome:
    """The weights of the best epoch by validation, and the course of training."""

    state: State
    epochs: tuple[Epoch, ...]

    @property
    def best(self) -> Epoch:
        return next(epoch for epoch in reversed(self.epochs) if epoch.best)


class _Best:
    """The best weights so far."""

    def __init__(self, module: nn.Module, metric: tasks.Primary) -> None:
        self._module = module
        self._metric = metric
        self.value = metric.worst
        self.state = copy.deepcopy(module.state_dict())
        self.stale = 0

    def offer(self, value: float) -> bool:
        """Keep the module's present weights if ``value`` is the best yet."""
        better = self._metric.better(value, self.value)
        self.stale = 0 if better else self.stale + 1
        if better:
            self.value, self.state = value, copy.deepcopy(self._module.state_dict())
        return better


def train(job: Job, feed: Feed, held_out: HeldOut, world: World, report: Callable[[Epoch], None]) -> Outcome:
    """Train, validate after every epoch, keep the best. Raises DataError when loss or metric is not a number."""
    config = job.config
    module = _module(job, world)
    step = Stepper(world.wrap(module), config, _loss(job), config.epochs * feed.steps)
    scored = models.Scored(module, job.task, job.inputs)
    best = _Best(module, tasks.primary(job.task))
    epochs: list[Epoch] = []
    while len(epochs) < config.epochs and not (config.patience and best.stale >= config.patience):
        epochs.append(_epoch(job, len(epochs) + 1, step, scored, best, feed, held_out, world))
        report(epochs[-1])
    return Outcome({name: value.cpu().numpy() for name, value in best.state.items()}, tuple(epochs))


def _module(job: Job, world: World) -> nn.Module:
    """Built alike on all workers; from then on each draws dropout from a generator of its own."""
    torch.manual_seed(job.config.seed)
    module = models.build(job.spec, job.inputs, job.task).to(world.device)
    torch.manual_seed(job.config.seed * world.size + world.rank)
    return module


def _epoch(
    job: Job,
    number: int,
    step: Stepper,
    scored: models.Scored,
    best: _Best,
    feed: Feed,
    held_out: HeldOut,
    world: World,
) -> Epoch:
    lr, started = step.lr, time.perf_counter()
    scored.train()
    loss = _pass(step, feed, number, world)
    scored.eval()
    trained = time.perf_counter()
    metrics = validate(scored, job.task, held_out, world)
    improved = best.offer(_checked(loss, metrics, tasks.primary(job.task).name, number))
    return Epoch(
        number=number,
        of=job.config.epochs,
        loss=loss,
        metrics=metrics,
        lr=lr,
        rows_per_second=feed.rows / (trained - started),
        train_seconds=trained - started,
        validation_seconds=time.perf_counter() - trained,
        best=improved,
        best_so_far=best.value,
    )


def validate(scored: nn.Module, task: Task, held_out: HeldOut, world: World) -> dict[str, float]:
    """Metrics over the held-out rows of all workers, exact, not averaged over shards."""
    scores, labels = gather(scored, task, held_out, world)
    return tasks.evaluate(task, scores, labels)


@torch.inference_mode()
def gather(scored: nn.Module, task: Task, held_out: HeldOut, world: World) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of all held-out rows, in order, on every worker."""
    columns = task.outputs + 1
    table = torch.zeros(held_out.rows, columns, device=world.device)
    for first, batch in held_out.parts():
        at = slice(first, first + len(batch.labels))
        batch = batch.to(world.device)
        table[at, :-1] = scored(batch.numbers, batch.codes).reshape(-1, columns - 1)
        table[at, -1] = batch.labels
    table = world.total(table).cpu()
    scores = table[:, :-1] if task.kind == "multiclass" else table[:, 0]
    return scores.numpy(), table[:, -1].numpy()


def _pass(step: Stepper, feed: Feed, number: int, world: World) -> float:
    """One epoch; returns the mean loss over all workers."""
    total = torch.zeros((), device=world.device)
    for batch in feed.epoch(number):
        total += step(batch.to(world.device))
    return float(world.total(total)) / (feed.steps * world.size)


def _loss(job: Job) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    shift, scale = job.inputs.label_mean, job.inputs.label_std
    return lambda logits, labels: losses.loss(job.task, logits, (labels - shift) / scale)


def _checked(loss: float, metrics: dict[str, float], metric: str, number: int) -> float:
    if not np.isfinite(loss):
        raise DataError(f"the training loss is {loss} in epoch {number}", "lower lr, or look for infinite values")
    if np.isnan(metrics[metric]):
        raise DataError(f"the validation rows do not define {metric}", "they need rows of more than one class")
    return metrics[metric]
