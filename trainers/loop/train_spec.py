"""Specification of a training, without its data."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.values import Task
from trainers.config import ModelSpec, TrainConfig
from trainers.input_spec import InputSpec
from trainers.loop.train_events import Weights


@dataclass(frozen=True)
class Teacher:
    """A trained model from which a student learns (knowledge distillation)."""

    model: ModelSpec
    state: Weights
    weight: float
    """Share of the distillation loss in the student's loss."""
    temperature: float
    """Divides the logits of teacher and student in the distillation loss."""


@dataclass(frozen=True)
class TrainSpec:
    """A model, its training settings, its task and the description of its inputs."""

    model: ModelSpec
    config: TrainConfig
    task: Task
    inputs: InputSpec
    start: Weights | None = None
    """Initial weights, or trees that continue; drawn at random, or none, by default."""
    teacher: Teacher | None = None
    """Teacher for knowledge distillation."""
