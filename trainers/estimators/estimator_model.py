"""An estimator of scikit-learn: how it is fitted, its own scores, and its ONNX graph."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from cluster.errors import DataError
from cluster.values import Task
from features.encoder import Arrays
from trainers.config import ModelSpec, TrainConfig
from trainers.data.batches import EncodedRows
from trainers.estimators.catalog import create, estimator_name, is_forest
from trainers.estimators.columns import dense_columns, order_codes, tree_columns
from trainers.estimators.layers import Layers, layers_to_onnx, read_layers
from trainers.estimators.sklearn_forest import read_forest
from trainers.input_spec import InputSpec
from trainers.trees.booster import BoostingRows
from trainers.trees.boosting import State, split_objectives
from trainers.trees.forest import PROBABILITY_FLOOR, Forest
from trainers.trees.forest_onnx import forest_to_onnx
from trainers.trees.tree_model import scores_of, state_key


class _Fitted(NamedTuple):
    """A fitted estimator of one objective, and for trees the rank of each code of each category."""

    estimator: Any
    ranks: tuple[np.ndarray, ...]


def fit_estimator(spec: ModelSpec, config: TrainConfig, task: Task, inputs: InputSpec, rows: EncodedRows) -> State:
    """Fit an estimator in one go: one for each label of a multi-label task.

    Args:
        spec: The model.
        config: Its training settings.
        task: The task.
        inputs: Description of the inputs.
        rows: Training rows.

    Returns:
        The estimators as skops files, as bytes, by ``state_key``.

    Raises:
        DataError: A class has no rows, or the estimator fails.
    """
    from skops import io as skops

    state: State = {}
    for i, each in enumerate(split_objectives(task, config, inputs, rows)):
        fitted = _fit(spec, config, inputs, each)
        state[state_key(i)] = np.frombuffer(skops.dumps([fitted.estimator, *fitted.ranks]), np.uint8)
    return state


class EstimatorModel:
    """A fitted model of scikit-learn (trainers.fitted_model.GraphModel).

    Args:
        spec: The kind of model.
        task: The task.
        inputs: Description of the inputs.
        state: What ``fit_estimator`` returned.
        temperature: Divides the logits (temperature scaling).
    """

    def __init__(self, spec: ModelSpec, task: Task, inputs: InputSpec, state: State, temperature: float = 1.0) -> None:
        self.is_forest = is_forest(spec)
        """Whether it consists of trees; else of layers."""
        self._files = [state[state_key(i)].tobytes() for i in range(len(state))]
        self._task, self._inputs, self._temperature = task, inputs, temperature
        self._of_logits = temperature != 1.0 or bool(inputs.logit_shift)

    def score(self, arrays: Arrays) -> np.ndarray:
        """Scores of encoded rows, by the library; with a temperature or a shift, from its trees' or layers' outputs."""
        if self._of_logits:
            return scores_of(self._task, self._inputs, self._logits(arrays), self._temperature)
        outputs = [self._predict(fitted, arrays) for fitted in self._fitted]
        if self._task.kind == "regression":
            return scores_of(self._task, self._inputs, outputs[0])
        if self._task.kind == "multiclass":
            return outputs[0].astype(np.float32)
        scores = np.column_stack([each[:, 1] for each in outputs]).astype(np.float32)
        return scores if self._task.wide else scores[:, 0]

    def to_onnx(self) -> bytes:
        """The same model as an ONNX graph."""
        if self.is_forest:
            forest = self.forest(opposite=self._of_logits)
            return forest_to_onnx(forest, self._task, self._inputs, self._temperature)
        return layers_to_onnx(self.layers(), self._task, self._inputs, self._temperature)

    def forest(self, opposite: bool = False) -> Forest:
        """Its trees, which add up to probabilities, or to the standardized label.

        Args:
            opposite: Whether the probability of each label is followed by that of its opposite.
        """
        return Forest.join(read_forest(*fitted, self._inputs.width, opposite) for fitted in self._fitted)

    def layers(self) -> Layers:
        """Its layers, whose outputs are logits before the temperature, or the standardized label."""
        layers = self._fitted_layers()
        *deeper, last = layers.biases
        return layers._replace(biases=(*deeper, last - np.array(self._inputs.logit_shift or 0.0)))

    def _fitted_layers(self) -> Layers:
        return Layers.join([read_layers(fitted.estimator) for fitted in self._fitted])

    def _logits(self, arrays: Arrays) -> np.ndarray:
        if not self.is_forest:
            return self._fitted_layers().outputs(dense_columns(arrays, self._inputs))
        logs = [np.log(np.maximum(self._predict(fitted, arrays), PROBABILITY_FLOOR)) for fitted in self._fitted]
        return (
            logs[0] if self._task.kind == "multiclass" else np.column_stack([each[:, 1] - each[:, 0] for each in logs])
        )

    def _predict(self, fitted: _Fitted, arrays: Arrays) -> np.ndarray:
        """Probabilities of classes, or the standardized label, float64 [n, k]."""
        columns = tree_columns(arrays, fitted.ranks) if self.is_forest else dense_columns(arrays, self._inputs)
        predict = getattr(fitted.estimator, "predict_proba", fitted.estimator.predict)
        return np.asarray(predict(columns), np.float64).reshape(len(columns), -1)

    @cached_property
    def _fitted(self) -> list[_Fitted]:
        from skops import io as skops

        # The files are this package's own: they come from a worker of the same training.
        loaded = (skops.loads(file, trusted=skops.get_untrusted_types(data=file)) for file in self._files)
        return [_Fitted(estimator, tuple(ranks)) for estimator, *ranks in loaded]


def _fit(spec: ModelSpec, config: TrainConfig, inputs: InputSpec, rows: BoostingRows) -> _Fitted:
    estimator, targets = create(spec, config.seed, config.threads), _targets(rows)
    ranks: tuple[np.ndarray, ...] = ()
    if is_forest(spec):
        ranks = order_codes(rows.arrays["codes"], inputs.cardinalities, targets, rows.weights)
        columns = tree_columns(rows.arrays, ranks)
    else:
        columns = dense_columns(rows.arrays, inputs)
    labels = rows.labels if rows.kind == "regression" else rows.labels.astype(np.int64)
    weights = None if rows.weights is None else rows.weights.astype(np.float64)
    try:
        # Sums of several threads differ in the last bits: as many as the settings say, on every machine.
        with threadpool_limits(config.threads):
            estimator.fit(columns, labels, sample_weight=weights)
    # An estimator may fail in any way, such as on rows of one class.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError("data.estimator_fails", name=estimator_name(spec), reason=reason) from error
    # Scores must not depend on the order in which threads add.
    estimator.set_params(**({"n_jobs": None} if hasattr(estimator, "n_jobs") else {}))
    return _Fitted(estimator, ranks)


def _targets(rows: BoostingRows) -> np.ndarray:
    """Labels [n, 1], or ones and zeros by class [n, classes].

    Raises:
        DataError: A class has no rows.
    """
    classes = {"regression": 0, "binary": 2}.get(rows.kind, rows.classes)
    if missing := sorted(set(range(classes)) - set(np.unique(rows.labels).astype(int).tolist())):
        raise DataError("data.class_without_rows", classes=missing)
    return rows.labels[:, None] == np.arange(classes) if classes > 2 else rows.labels[:, None]
