"""What to train, without the data."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.values import Task
from trainers.config import ModelSpec, TrainConfig
from trainers.input_spec import InputSpec
from trainers.loop.train_events import State


@dataclass(frozen=True)
class Teacher:
    """A trained model whose outputs, softened by ``temperature``, are ``weight`` of a student's loss."""

    spec: ModelSpec
    state: State
    weight: float
    temperature: float


@dataclass(frozen=True)
class Job:
    """A model, how to train it, for what, and what it is told about its inputs.

    ``start`` are the weights that training begins with, drawn when there are none.
    """

    spec: ModelSpec
    config: TrainConfig
    task: Task
    inputs: InputSpec
    start: State | None = None
    teacher: Teacher | None = None
