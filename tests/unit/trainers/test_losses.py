"""Losses, class weights and activations against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from cluster.values import TaskKind
from tests.factories.trainers.frames import TASKS
from trainers import losses
from trainers.config import TrainConfig
from trainers.input_spec import InputSpec

LOG_2 = math.log(2)


def _inputs(*shares: float) -> InputSpec:
    return InputSpec(
        numbers=(), tensors=(), categories=(), cardinalities=(), mean=(), std=(), missing=(), class_shares=shares
    )


def _balanced(kind: str, *shares: float) -> list[float]:
    weights = losses.class_weights(TASKS[kind], TrainConfig(class_weights="balanced"), _inputs(*shares))  # type: ignore[index]
    assert weights is not None
    return weights.tolist()


def test_batch_loss_of_zero_logits_is_the_entropy_of_a_fair_guess() -> None:
    labels = torch.tensor([0.0, 1.0])
    assert losses.batch_loss(TASKS["binary"], torch.zeros(2, 1), labels).item() == pytest.approx(LOG_2)
    assert losses.batch_loss(TASKS["multiclass"], torch.zeros(2, 3), labels).item() == pytest.approx(math.log(3))
    assert losses.batch_loss(TASKS["multilabel"], torch.zeros(2, 2), torch.eye(2)).item() == pytest.approx(LOG_2)


def test_batch_loss_of_regression_is_the_mean_squared_error() -> None:
    loss = losses.batch_loss(TASKS["regression"], torch.tensor([[1.0], [2.0]]), torch.tensor([2.0, 5.0]))
    assert loss.item() == pytest.approx((1 + 9) / 2)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_batch_loss_of_a_row_for_each_class_is_the_expected_loss(kind: TaskKind) -> None:
    task, logits = TASKS[kind], torch.tensor([[0.3, -1.0, 2.0]])[:, : TASKS[kind].outputs]
    probabilities = torch.tensor([0.2, 0.8])
    each = [losses.batch_loss(task, logits, torch.tensor([label])) for label in (0.0, 1.0)]
    soft = losses.batch_loss(task, logits.repeat(2, 1), torch.tensor([0.0, 1.0]), row_weights=probabilities)
    # The mean is over rows: two of them.
    assert 2 * soft.item() == pytest.approx((0.2 * each[0] + 0.8 * each[1]).item())


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_batch_loss_multiplies_weights_of_rows_and_classes(kind: TaskKind) -> None:
    task, logits = TASKS[kind], torch.zeros(2, TASKS[kind].outputs)
    weights, row_weights = torch.tensor([1.0, 3.0, 1.0]), torch.tensor([0.5, 2.0])
    loss = losses.batch_loss(task, logits, torch.tensor([0.0, 1.0]), weights, row_weights)
    fair = losses.batch_loss(task, logits, torch.tensor([0.0, 1.0]))
    assert loss.item() == pytest.approx(fair.item() * (0.5 + 6.0) / 2)


def test_balanced_weight_is_rows_over_classes_times_rows_of_the_class() -> None:
    assert _balanced("binary", 0.8, 0.2) == pytest.approx([0.625, 2.5])
    assert _balanced("multilabel", 0.8, 0.2) == pytest.approx([0.25, 4.0])


def test_balanced_weight_of_absent_class_is_one() -> None:
    assert _balanced("multiclass", 0.75, 0.25, 0.0) == pytest.approx([4 / 9, 4 / 3, 1.0])
    assert _balanced("multilabel", 0.5, 0.0) == pytest.approx([1.0, 1.0])


def test_activations_match_their_definitions() -> None:
    zeros = torch.zeros(1, 3)
    assert losses.activate(TASKS["multiclass"], zeros)[0].tolist() == pytest.approx([1 / 3] * 3)
    assert losses.activate(TASKS["multilabel"], zeros[:, :2])[0].tolist() == [0.5, 0.5]
    assert losses.activate(TASKS["binary"], zeros[:, :1]).tolist() == [0.5]
    assert losses.activate(TASKS["regression"], torch.tensor([[7.0]])).tolist() == [7.0]
