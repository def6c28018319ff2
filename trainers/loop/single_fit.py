"""The training of an estimator that is fitted in one go: one epoch, after which the validation rows are scored."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from cluster.errors import DataError
from trainers import metrics
from trainers.data.batches import EncodedRows
from trainers.estimators.estimator_model import EstimatorModel, fit_estimator
from trainers.loop.train_events import EpochResult, TrainResult, Weights
from trainers.loop.train_spec import TrainSpec
from trainers.loop.validation import measure, score_rows

LOSS_ROWS = 20_000
"""Training rows on which the loss is measured."""


def train(
    spec: TrainSpec,
    rows: EncodedRows,
    held_out: EncodedRows,
    on_epoch: Callable[[EpochResult], None] = lambda epoch: None,
) -> TrainResult:
    """Fit an estimator, and score the validation rows.

    Args:
        spec: What to train.
        rows: Training rows.
        held_out: Validation rows.
        on_epoch: Receives the result.

    Raises:
        DataError: The estimator fails, or its metric is not a number.
    """
    started, primary = time.monotonic(), metrics.primary_metric(spec.task)
    state = fit_estimator(spec.model, spec.config, spec.task, spec.inputs, rows)
    trained = time.monotonic()
    model = EstimatorModel(spec.model, spec.task, spec.inputs, state)
    loss, validation = _loss(spec, state, rows.thin(LOSS_ROWS)), measure(model, spec.task, held_out)
    if np.isnan(validation[primary.name]):
        raise DataError("data.metric_undefined", metric=primary.name)
    epoch = EpochResult(
        number=1,
        of=1,
        loss=loss,
        metrics=validation,
        lr=0.0,
        rows_per_second=len(rows) / max(trained - started, 1e-9),
        train_seconds=trained - started,
        validation_seconds=time.monotonic() - trained,
        best=True,
        best_so_far=validation[primary.name],
    )
    on_epoch(epoch)
    return TrainResult(state, (epoch,))


def _loss(spec: TrainSpec, state: Weights, rows: EncodedRows) -> float:
    """Mean loss of training rows, synthetic ones included: log loss, or the squared error of the standardized label."""
    as_trained = spec.inputs.model_copy(update={"logit_shift": ()})
    model = EstimatorModel(spec.model, spec.task, as_trained, state)
    name = "rmse" if spec.task.kind == "regression" else "log_loss"
    value = metrics.prepare(spec.task, name, score_rows(model, rows), rows.labels)(None)
    return (value / spec.inputs.label_std) ** 2 if name == "rmse" else value
