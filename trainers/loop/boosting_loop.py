"""The training loop of boosted trees: rounds in place of steps, and blocks of rounds in place of epochs.

It knows nothing of Ray. A block's end is what an epoch's end is to a module: the validation rows are scored, and the
best block's model is the result. There are no checkpoints: a training that restarts ends with the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from cluster.errors import DataError
from trainers import metrics
from trainers.data.batches import EncodedRows
from trainers.loop.train_events import BlockResult, EpochResult, StepProgress, TrainResult
from trainers.loop.train_spec import TrainSpec
from trainers.trees.boosting import Boosting
from trainers.trees.early_stopping import EarlyStopping
from trainers.trees.parameters import PATIENCE

PROGRESS_INTERVAL_S = 1.0
"""Seconds between progress events."""


def train(
    spec: TrainSpec,
    rows: EncodedRows,
    held_out: EncodedRows,
    on_epoch: Callable[[EpochResult], None] = lambda epoch: None,
    on_progress: Callable[[StepProgress], None] = lambda progress: None,
    out_of_time: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Train trees, score the validation rows after every block of rounds, and keep the best block's model.

    Args:
        spec: What to train.
        rows: Training rows.
        held_out: Validation rows.
        on_epoch: Receives each block's result.
        on_progress: Receives progress about once a second.
        out_of_time: Whether training has to end; asked after each round.

    Returns:
        The best model, and all blocks.

    Raises:
        DataError: Loss or metric is not a number.
    """
    validation = {"numbers": held_out.numbers, "codes": held_out.codes}
    boosting = Boosting(spec.model, spec.config, spec.task, spec.inputs, rows, validation, spec.start)
    return _BoostingLoop(spec, boosting, rows, held_out.labels, on_progress, out_of_time).run(on_epoch)


class _BoostingLoop:
    def __init__(
        self,
        spec: TrainSpec,
        boosting: Boosting,
        rows: EncodedRows,
        labels: np.ndarray,
        on_progress: Callable[[StepProgress], None],
        out_of_time: Callable[[], bool],
    ) -> None:
        self._spec, self._boosting, self._rows, self._labels = spec, boosting, len(rows), labels
        self._on_progress, self._out_of_time = on_progress, out_of_time
        self._stopping = EarlyStopping(metrics.primary_metric(spec.task), spec.config.patience or PATIENCE)
        self._epochs: list[EpochResult] = []
        self._last_progress = 0.0

    def run(self, on_epoch: Callable[[EpochResult], None]) -> TrainResult:
        while not self._boosting.is_complete and not self._stopping.is_over(self._boosting.rounds):
            epoch = self._run_block()
            self._epochs.append(epoch)
            on_epoch(epoch)
            if self._out_of_time():
                break
        return TrainResult(self._boosting.state(self._stopping.best_rounds), tuple(self._epochs))

    def _run_block(self) -> BlockResult:
        started, first, parameters = time.monotonic(), self._boosting.rounds, self._boosting.parameters
        self._boosting.grow_block(lambda: self._end_round(first, started))
        trained, loss = time.monotonic(), self._boosting.loss()
        if not np.isfinite(loss):
            raise DataError("data.loss_not_finite", epoch=len(self._epochs) + 1, loss=loss)
        validation = self._validate()
        best = self._stopping.offer(validation[self._stopping.metric.name], self._boosting.rounds)
        return BlockResult(
            number=len(self._epochs) + 1,
            of=parameters.blocks,
            loss=loss,
            metrics=validation,
            lr=parameters.learning_rate,
            rows_per_second=self._rows * (self._boosting.rounds - first) / max(trained - started, 1e-9),
            train_seconds=trained - started,
            validation_seconds=time.monotonic() - trained,
            best=best,
            best_so_far=self._stopping.best,
            rounds=self._boosting.rounds,
        )

    def _validate(self) -> dict[str, float]:
        scores = self._boosting.validation_scores()
        if invalid := int(np.isnan(scores).reshape(len(scores), -1).any(axis=1).sum()):
            raise DataError("data.score_not_a_number", rows=invalid, total=len(scores))
        validation = metrics.evaluate(self._spec.task, scores, self._labels)
        if np.isnan(validation[self._stopping.metric.name]):
            raise DataError("data.metric_undefined", metric=self._stopping.metric.name)
        return validation

    def _end_round(self, first: int, started: float) -> bool:
        self._report_progress(first, started)
        return self._out_of_time()

    def _report_progress(self, first: int, started: float) -> None:
        now, parameters = time.monotonic(), self._boosting.parameters
        if now - self._last_progress < PROGRESS_INTERVAL_S:
            return
        self._last_progress = now
        step, spent = self._boosting.rounds - first, now - started
        rate = step / spent if spent else 0.0
        self._on_progress(
            StepProgress(
                epoch=len(self._epochs) + 1,
                epochs=parameters.blocks,
                step=step,
                steps=parameters.block,
                loss=self._epochs[-1].loss if self._epochs else 0.0,
                lr=parameters.learning_rate,
                rows_per_second=rate * self._rows,
                left_seconds=(self._boosting.most_rounds - self._boosting.rounds) / rate if rate else 0.0,
                workers=1,
                seconds={},
            )
        )
