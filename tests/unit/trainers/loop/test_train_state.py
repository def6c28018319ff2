"""Best weights, patience and progress of a training, by hand."""

from __future__ import annotations

import pytest
import torch

from trainers.config import TrainConfig
from trainers.loop.train_events import EpochResult
from trainers.loop.train_state import BestWeights, TrainState
from trainers.metrics import PrimaryMetric

AUC = PrimaryMetric("auc", "max")


def _state() -> TrainState:
    return TrainState(BestWeights(AUC.worst), torch.zeros(()), steps=10)


def _epoch(number: int) -> EpochResult:
    return EpochResult(
        number=number,
        of=9,
        loss=0.0,
        metrics={},
        lr=0.1,
        rows_per_second=1.0,
        train_seconds=1.0,
        validation_seconds=1.0,
        best=False,
        best_so_far=0.0,
    )


def _offer(state: TrainState, value: float) -> bool:
    better = state.offer(AUC, value, {"w": torch.tensor(value)})
    state.end(_epoch(len(state.epochs) + 1))
    return better


def test_offer_keeps_the_best_weights_and_counts_epochs_since() -> None:
    state = _state()
    assert [_offer(state, value) for value in (0.5, 0.7, 0.7, 0.6)] == [True, True, False, False]
    assert (state.best.value, state.best.stale) == (0.7, 2)
    assert state.best.weights["w"].item() == pytest.approx(0.7)
    assert _offer(state, 0.8)
    assert (state.best.value, state.best.stale) == (0.8, 0)


def test_first_offer_is_kept_even_if_it_is_the_worst_value() -> None:
    state = _state()
    assert state.offer(AUC, AUC.worst, {"w": torch.tensor(1.0)})
    assert list(state.best.weights) == ["w"]


def test_training_is_over_after_all_epochs_or_without_patience() -> None:
    state, patient, impatient = _state(), TrainConfig(epochs=3), TrainConfig(epochs=9, patience=1)
    over = []
    for value in (0.5, 0.6, 0.4):
        _offer(state, value)
        over.append((state.is_over(patient), state.is_over(impatient)))
    assert over == [(False, False), (False, False), (True, True)]


def test_end_of_epoch_starts_the_next_one_at_its_first_step() -> None:
    state = _state()
    state.at, state.earlier_seconds = 10, {"forward": 2.0}
    state.loss += 5.0
    state.end(_epoch(1))
    assert (state.at, state.earlier_seconds, state.loss.item()) == (0, {}, 0.0)


def test_progress_extrapolates_the_time_left() -> None:
    """Of 3 epochs of 10 steps one is done, and 4 steps of the second in 2 seconds: 16 steps remain at 2 a second."""
    state, config = _state(), TrainConfig(epochs=3)
    _offer(state, 0.5)
    state.at = 4
    state.loss += 6.0
    progress = state.progress(config, rows=50, workers=2, lr=0.1, seconds={"data": 0.5, "forward": 1.5})
    assert (progress.epoch, progress.step, progress.loss) == (2, 4, 1.5)
    assert (progress.rows_per_second, progress.left_seconds) == (10.0, 8.0)


def test_progress_before_the_first_step_has_no_rate() -> None:
    progress = _state().progress(TrainConfig(), rows=50, workers=1, lr=0.1, seconds={})
    assert (progress.loss, progress.rows_per_second, progress.left_seconds) == (0.0, 0.0, 0.0)
