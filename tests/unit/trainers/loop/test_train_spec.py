"""A training's specification cannot change while workers use it."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from tests.factories.trainers.frames import TASKS
from trainers.config import ModelSpec, TrainConfig
from trainers.input_spec import InputSpec
from trainers.loop.train_spec import Teacher, TrainSpec


def test_specification_and_teacher_are_immutable() -> None:
    inputs = InputSpec(numbers=(), tensors=(), categories=(), cardinalities=(), mean=(), std=(), missing=())
    teacher = Teacher(ModelSpec(), {}, 0.5, 2.0)
    spec = TrainSpec(ModelSpec(), TrainConfig(), TASKS["binary"], inputs, teacher=teacher)
    with pytest.raises(FrozenInstanceError):
        teacher.weight = 1.0  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        spec.teacher = None  # type: ignore[misc]
