"""A model that a race chose: the weighted mean of the scores of its members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cluster.values import Task
from features.encoder import Arrays
from trainers.config import ModelSpec
from trainers.estimators.estimator_model import EstimatorModel
from trainers.evaluation import calibration
from trainers.fitted_model import FittedModel
from trainers.input_spec import InputSpec
from trainers.models import model_builder
from trainers.models.scoring_module import ScoringModule
from trainers.selection.selection import Selection
from trainers.trees.tree_model import TreeModel

State = Mapping[str, np.ndarray]


class EnsembleModel:
    """Several models as one (trainers.fitted_model.FittedModel).

    Args:
        members: The models.
        weights: Their weights, which add up to 1.
        task: The task.
        temperature: Divides the logits of the mean (temperature scaling).
    """

    def __init__(
        self, members: Sequence[FittedModel], weights: Sequence[float], task: Task, temperature: float = 1.0
    ) -> None:
        self.members, self.weights, self.task, self.temperature = members, weights, task, temperature

    def score(self, arrays: Arrays) -> np.ndarray:
        """Scores of encoded rows."""
        pairs = zip(self.weights, self.members, strict=True)
        scores = sum(weight * member.score(arrays).astype(np.float64) for weight, member in pairs)
        if self.temperature != 1.0:
            scores = calibration.apply_temperature(self.task, np.asarray(scores), self.temperature)
        return np.asarray(scores, np.float32)


def build_fitted(spec: ModelSpec, task: Task, inputs: InputSpec, state: State, temperature: float = 1.0) -> FittedModel:
    """A trained model of any kind that is trained here. An ensemble of one model is that model.

    Args:
        spec: The model.
        task: The task.
        inputs: Description of the inputs.
        state: Its weights, trees, or members.
        temperature: Divides the logits.
    """
    if spec.is_module:
        module = model_builder.load(spec, inputs, task, state)
        return ScoringModule(module, task, inputs, temperature).eval()
    if spec.is_estimator:
        return EstimatorModel(spec, task, inputs, dict(state), temperature)
    if not spec.is_auto:
        return TreeModel(spec, task, inputs, dict(state), temperature)
    selection = Selection.from_state(state)
    states, specs = selection.member_states(state), selection.specs()
    if len(states) == 1:
        ((number, only),) = states.items()
        return build_fitted(specs[number], task, inputs, only, temperature)
    members = [build_fitted(specs[number], task, inputs, states[number]) for number in states]
    return EnsembleModel(members, [selection.served.weights[number] for number in states], task, temperature)
