"""A regressor's performance without labels: a second model predicts its errors. Pure.

DLE, direct loss estimation (NannyML documentation, "Direct loss estimation"): on labeled reference rows, learn the loss
of a prediction from the features and the prediction; its mean over a window estimates the window's. It holds while the
error's distribution given the features does, and the reference must be rows that the model was not trained on.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from lightgbm import LGBMRegressor

from cluster.errors import DataError
from cluster.values import Frozen

MIN_ROWS = 100


class RegressionLoss(Frozen):
    """Mean absolute error and root mean squared error over ``rows``, estimated or observed."""

    rows: int
    mae: float
    rmse: float


class LossModel:
    """Predicts absolute and squared errors."""

    def __init__(self, features: np.ndarray, predictions: np.ndarray, labels: np.ndarray, seed: int = 0) -> None:
        """Fit.

        Args:
            features: Features, [rows, features], NaN for missing.
            predictions: Predictions, [rows].
            labels: Labels, [rows].
            seed: Seed of the models.

        Raises:
            DataError: There are fewer than MIN_ROWS rows.
        """
        if len(labels) < MIN_ROWS:
            raise DataError("data.too_few_labeled_rows", rows=len(labels), minimum=MIN_ROWS)
        inputs, errors = np.column_stack([features, predictions]), np.abs(labels - predictions)
        self._absolute = _fit(inputs, errors, seed)
        self._squared = _fit(inputs, errors**2, seed)

    def estimate(self, features: np.ndarray, predictions: np.ndarray) -> RegressionLoss:
        """Estimate the loss over a window.

        Args:
            features: Features, [rows, features], NaN for missing.
            predictions: Predictions, [rows].

        Raises:
            DataError: There are no rows.
        """
        if not len(predictions):
            raise DataError("data.empty_window")
        squared = _predict(self._squared, features, predictions)
        absolute = self.expected_errors(features, predictions)
        return RegressionLoss(rows=len(predictions), mae=float(absolute.mean()), rmse=math.sqrt(float(squared.mean())))

    def expected_errors(self, features: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """Expected absolute error of each row, [rows]."""
        return _predict(self._absolute, features, predictions)


def observed_loss(predictions: np.ndarray, labels: np.ndarray) -> RegressionLoss:
    """The loss by labels.

    Args:
        predictions: Predictions, [rows].
        labels: Labels, [rows].
    """
    errors = labels - predictions
    return RegressionLoss(rows=len(errors), mae=float(np.abs(errors).mean()), rmse=math.sqrt(float((errors**2).mean())))


def _predict(model: Any, features: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Predicted losses. They are never negative, although a tree may extrapolate below 0."""
    return np.asarray(np.maximum(model.predict(np.column_stack([features, predictions])), 0.0))


def _fit(inputs: np.ndarray, losses: np.ndarray, seed: int) -> Any:
    model = LGBMRegressor(n_estimators=100, num_leaves=15, learning_rate=0.1, n_jobs=1, random_state=seed, verbose=-1)
    return model.fit(inputs, losses)
