"""Scores of a model: their shape and range for each task."""

from __future__ import annotations

import torch

from tests.factories.trainers.frames import TASKS
from tests.factories.trainers.training import fitted_inputs
from trainers.config import ModelSpec
from trainers.models import model_builder
from trainers.models.scoring_module import ScoringModule


def test_scores_follow_the_task() -> None:
    for task in TASKS.values():
        inputs, numbers, codes = fitted_inputs(task)
        scores = ScoringModule(model_builder.build(ModelSpec(), inputs, task), task, inputs).eval()(numbers, codes)
        if task.kind == "multiclass":
            assert torch.allclose(scores.sum(dim=1), torch.ones(len(numbers)))
        elif task.kind == "multilabel":
            assert scores.shape == (len(numbers), task.outputs)
            assert ((scores > 0) & (scores < 1)).all()
        else:
            assert scores.shape == (len(numbers),)
        if task.kind == "regression":
            assert abs(scores.mean().item() - inputs.label_mean) < 2 * inputs.label_std
