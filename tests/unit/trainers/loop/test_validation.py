"""Scores of held-out rows, and rows whose scores are no numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cluster.errors import DataError
from cluster.values import TaskKind
from tests.factories.errors import raises
from tests.factories.trainers.frames import TASKS
from tests.factories.trainers.training import fitted_inputs
from trainers.config import ModelSpec
from trainers.data.batches import EncodedRows, MemoryValidationLoader
from trainers.loop.process_group import ProcessGroup
from trainers.loop.validation import gather_scores, measure, score_rows, validate
from trainers.models import model_builder
from trainers.models.scoring_module import ScoringModule


class _Echo(nn.Module):
    """Scores that are the numbers themselves."""

    def __init__(self, wide: bool) -> None:
        super().__init__()
        self.wide = wide

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return numbers if self.wide else numbers[:, 0]


def _held_out(scores: np.ndarray, labels: np.ndarray) -> MemoryValidationLoader:
    rows = EncodedRows(scores.astype(np.float32), np.zeros((len(scores), 0), np.int64), labels.astype(np.float32))
    return MemoryValidationLoader(rows)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression", "multilabel"])
def test_gather_scores_keeps_order_and_shape_of_the_task(kind: TaskKind) -> None:
    task = TASKS[kind]
    scores = np.random.default_rng(0).random((5, task.outputs)).astype(np.float32)
    labels = np.arange(5.0 * task.label_width).reshape(5, -1) if task.label_width > 1 else np.arange(5.0)
    gathered_scores = gather_scores(_Echo(task.wide), task, _held_out(scores, labels), ProcessGroup())  # type: ignore[arg-type]
    assert np.array_equal(gathered_scores[0], scores if task.wide else scores[:, 0])
    assert np.array_equal(gathered_scores[1], labels)


def test_validate_counts_rows_with_a_nan_score() -> None:
    scores = np.full((6, 3), 1 / 3)
    scores[[1, 4], 0] = scores[4, 2] = np.nan
    with raises(DataError, "data.score_not_a_number", rows=2, total=6):
        validate(_Echo(True), TASKS["multiclass"], _held_out(scores, np.zeros(6)), ProcessGroup())  # type: ignore[arg-type]
    flat = np.array([[0.1], [np.nan], [np.nan], [np.nan]])
    with raises(DataError, "data.score_not_a_number", rows=3, total=4):
        validate(_Echo(False), TASKS["binary"], _held_out(flat, np.zeros(4)), ProcessGroup())  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression", "multilabel"])
def test_module_as_fitted_model_has_the_bits_of_the_module(kind: TaskKind) -> None:
    task, (inputs, numbers, codes) = TASKS[kind], fitted_inputs(TASKS[kind])
    scorer = ScoringModule(model_builder.build(ModelSpec(), inputs, task), task, inputs).eval()
    times = 40
    labels = np.zeros((times * len(numbers), task.label_width) if task.label_width > 1 else times * len(numbers))
    labels[::2] = 1.0
    rows = EncodedRows(numbers.repeat(times, 1).numpy(), codes.repeat(times, 1).numpy(), labels.astype(np.float32))
    assert len(rows) > 16_384
    expected, _ = gather_scores(scorer, task, MemoryValidationLoader(rows), ProcessGroup())
    assert np.array_equal(score_rows(scorer, rows), expected)
    assert measure(scorer, task, rows) == validate(scorer, task, MemoryValidationLoader(rows), ProcessGroup())
