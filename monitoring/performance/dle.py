"""A regressor's performance without labels: a second model predicts its errors. Pure.

DLE, direct loss estimation (NannyML documentation, "Direct loss estimation"): on labeled reference rows, learn the loss
of a prediction from the features and the prediction; its mean over a window estimates the window's. It holds while the
error's distribution given the features does, and the reference must be rows that the model was not trained on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from lightgbm import LGBMRegressor

from cluster.errors import DataError


class LossModel:
    """Predicts absolute and squared errors."""

    def __init__(self, features: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> None:
        """Fit.

        Args:
            features: Features, [rows, features], NaN for missing.
            predictions: Predictions, [rows].
            labels: Labels, [rows].
        """
        inputs, errors = np.column_stack([features, predictions]), np.abs(labels - predictions)
        self._absolute_model = _fit(inputs, errors)
        self._squared_model = _fit(inputs, errors**2)

    def estimate(self, features: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        """Estimate the mean absolute error, ``mae``, and the root mean squared error, ``rmse``, over a window.

        Args:
            features: Features, [rows, features], NaN for missing.
            predictions: Predictions, [rows].

        Raises:
            DataError: There are no rows.
        """
        if not len(predictions):
            raise DataError("data.empty_window")
        squared = self.expected_squares(features, predictions)
        absolute = self.expected_errors(features, predictions)
        return {"mae": float(absolute.mean()), "rmse": float(np.sqrt(squared.mean()))}

    def expected_errors(self, features: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """Expected absolute error of each row, [rows]."""
        return _predict(self._absolute_model, features, predictions)

    def expected_squares(self, features: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """Expected squared error of each row, [rows]."""
        return _predict(self._squared_model, features, predictions)


def observed_loss(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """``mae`` and ``rmse`` by labels.

    Args:
        predictions: Predictions, [rows].
        labels: Labels, [rows].
    """
    errors = labels - predictions
    return {"mae": float(np.abs(errors).mean()), "rmse": float(np.sqrt((errors**2).mean()))}


def _predict(model: Any, features: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Predicted losses. They are never negative, although a tree may extrapolate below 0."""
    return np.asarray(np.maximum(model.predict(np.column_stack([features, predictions])), 0.0))


def _fit(inputs: np.ndarray, losses: np.ndarray) -> Any:
    model = LGBMRegressor(n_estimators=100, num_leaves=15, learning_rate=0.1, n_jobs=1, random_state=0, verbose=-1)
    return model.fit(inputs, losses)
