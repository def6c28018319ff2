"""A regressor's performance without labels: a second model says how large its errors are. Pure.

DLE, direct loss estimation (NannyML documentation, "Direct loss estimation"): on labelled reference rows, learn the loss
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

LEAST_ROWS = 100


class Loss(Frozen):
    """Mean absolute error and root mean squared error over ``rows``, estimated or observed."""

    rows: int
    mae: float
    rmse: float


class LossModel:
    """Learns absolute and squared errors."""

    def __init__(self, features: np.ndarray, predictions: np.ndarray, labels: np.ndarray, seed: int = 0) -> None:
        """``features`` [rows, features], NaN for missing; ``predictions``, ``labels`` [rows]. Raises DataError."""
        if len(labels) < LEAST_ROWS:
            raise DataError(f"{len(labels)} labelled rows", f"losses are learned from at least {LEAST_ROWS}")
        inputs, errors = _inputs(features, predictions), np.abs(labels - predictions)
        self._absolute = _fitted(inputs, errors, seed)
        self._squared = _fitted(inputs, errors**2, seed)

    def estimate(self, features: np.ndarray, predictions: np.ndarray) -> Loss:
        """The loss over a window. Losses are never negative, whatever a tree says beyond its data."""
        if not len(predictions):
            raise DataError("a window without rows")
        squared = np.maximum(self._squared.predict(_inputs(features, predictions)), 0.0)
        absolute = self.absolute(features, predictions)
        return Loss(rows=len(predictions), mae=float(absolute.mean()), rmse=math.sqrt(float(squared.mean())))

    def absolute(self, features: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """The absolute error of each row that is expected, [rows]."""
        return np.asarray(np.maximum(self._absolute.predict(_inputs(features, predictions)), 0.0))


def observed(predictions: np.ndarray, labels: np.ndarray) -> Loss:
    """The loss by labels [rows]."""
    errors = labels - predictions
    return Loss(rows=len(errors), mae=float(np.abs(errors).mean()), rmse=math.sqrt(float((errors**2).mean())))


def _inputs(features: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    return np.column_stack([features, predictions])


def _fitted(inputs: np.ndarray, losses: np.ndarray, seed: int) -> Any:
    model = LGBMRegressor(n_estimators=100, num_leaves=15, learning_rate=0.1, n_jobs=1, random_state=seed, verbose=-1)
    return model.fit(inputs, losses)
