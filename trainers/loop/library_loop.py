"""Training by a library that takes the rows as a whole: boosted trees in blocks of rounds, estimators in one go."""

from __future__ import annotations

from collections.abc import Callable

from trainers.data.batches import EncodedRows
from trainers.data.noise import noisy_rows
from trainers.loop import boosting_loop, single_fit
from trainers.loop.train_events import EpochResult, StepProgress, TrainResult
from trainers.loop.train_spec import TrainSpec


def train(
    spec: TrainSpec,
    rows: EncodedRows,
    held_out: EncodedRows,
    on_epoch: Callable[[EpochResult], None] = lambda epoch: None,
    on_progress: Callable[[StepProgress], None] = lambda progress: None,
    out_of_time: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Train a model that is not a torch module.

    Args:
        spec: What to train.
        rows: Training rows.
        held_out: Validation rows.
        on_epoch: Receives each result on the validation rows.
        on_progress: Receives progress of boosted trees about once a second.
        out_of_time: Whether training of boosted trees has to end; asked after each round.

    Returns:
        The best model, and its results.

    Raises:
        DataError: Training fails, or its loss or metric is not a number.
    """
    rows = noisy_rows(rows, spec.config, spec.inputs)
    if spec.model.is_estimator:
        return single_fit.train(spec, rows, held_out, on_epoch)
    return boosting_loop.train(spec, rows, held_out, on_epoch, on_progress, out_of_time)
