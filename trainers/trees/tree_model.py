"""A fitted model of trees: scores by the library that trained it, and its ONNX graph."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import expit, softmax

from cluster.values import Task
from features.encoder import Arrays
from trainers.config import ModelSpec
from trainers.input_spec import InputSpec
from trainers.trees.forest import Forest
from trainers.trees.forest_onnx import forest_to_onnx
from trainers.trees.libraries import library_of

_STATE = "model."


def state_key(number: int) -> str:
    """Name of a model within the state: a multi-label task has one for each label."""
    return f"{_STATE}{number}"


class TreeModel:
    """A fitted model of trees (trainers.fitted_model.GraphModel).

    Args:
        spec: The kind of model.
        task: The task.
        inputs: Description of the inputs.
        state: The library's own model files, as bytes, by ``state_key``.
        temperature: Divides the logits (temperature scaling).
    """

    def __init__(
        self, spec: ModelSpec, task: Task, inputs: InputSpec, state: dict[str, np.ndarray], temperature: float = 1.0
    ) -> None:
        self._library = library_of(spec)
        self._task, self._inputs, self._temperature = task, inputs, temperature
        self._files = [state[state_key(i)].tobytes() for i in range(len(state))]

    def score(self, arrays: Arrays) -> np.ndarray:
        """Scores of encoded rows, by the library."""
        logits = np.hstack([self._library.predict(model, arrays) for model in self._models])
        return scores_of(self._task, self._inputs, logits, self._temperature)

    def to_onnx(self) -> bytes:
        """The same model as an ONNX graph."""
        return forest_to_onnx(self.forest(), self._task, self._inputs, self._temperature)

    def forest(self) -> Forest:
        """Its trees, which add up to logits before the temperature."""
        forest = Forest.join(self._library.forest(file) for file in self._files)
        shift = self._inputs.logit_shift or (0.0,) * len(forest.base)
        return forest._replace(base=tuple(np.subtract(forest.base, shift).tolist()))

    @cached_property
    def _models(self) -> list[Any]:
        return [self._library.load(file) for file in self._files]


def scores_of(task: Task, inputs: InputSpec, logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Scores as cluster.values.Task describes, float32, from logits float64 [n, outputs], which synthetic rows may have
    shifted."""
    logits = (logits - np.array(inputs.logit_shift or 0.0)) / temperature
    if task.kind == "multiclass":
        scores = softmax(logits, axis=1)
    elif task.kind == "regression":
        scores = logits[:, 0] * inputs.label_std + inputs.label_mean
    else:
        scores = expit(logits if task.wide else logits[:, 0])
    return np.asarray(scores, np.float32)
