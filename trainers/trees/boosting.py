"""Boosted trees in training, for every kind of task: one booster, or one for each label of a multi-label task."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from cluster.values import Task
from features.encoder import Arrays
from trainers import losses
from trainers.config import ModelSpec, TrainConfig
from trainers.data.batches import EncodedRows
from trainers.input_spec import InputSpec
from trainers.trees.booster import Booster, BoostingRows
from trainers.trees.libraries import library_of
from trainers.trees.parameters import BoostingParameters, parameters_of
from trainers.trees.tree_model import scores_of, state_key

State = dict[str, np.ndarray]


class Boosting:
    """A model that grows by rounds, with the scores of the validation rows after each of them.

    Args:
        spec: The model.
        config: Its training settings.
        task: The task.
        inputs: Description of the inputs.
        train: Training rows.
        validation: Encoded validation rows.
        start: A model that continues, as ``state`` returns it; its rounds come before those of the parameters.
    """

    def __init__(
        self,
        spec: ModelSpec,
        config: TrainConfig,
        task: Task,
        inputs: InputSpec,
        train: EncodedRows,
        validation: Arrays,
        start: State | None = None,
    ) -> None:
        self.parameters: BoostingParameters = parameters_of(spec)
        self._task, self._inputs, self._validation = task, inputs, validation
        build = library_of(spec).booster
        rows = split_objectives(task, config, inputs, train)
        self._boosters: list[Booster] = [
            build(self.parameters, each, config.seed, config.threads, start[state_key(i)].tobytes() if start else None)
            for i, each in enumerate(rows)
        ]
        earlier = max(library_of(spec).rounds(start[key].tobytes()) for key in start) if start else 0
        self.most_rounds = earlier + self.parameters.rounds
        """Rounds after which training ends."""
        self._logits = np.zeros((len(validation["numbers"]), task.outputs))
        self._scored = 0
        self._can_grow = True

    @property
    def rounds(self) -> int:
        """Rounds so far."""
        return max(booster.rounds for booster in self._boosters)

    @property
    def is_complete(self) -> bool:
        """Whether all rounds are trained, or another one would add nothing."""
        return not self._can_grow or self.rounds >= self.most_rounds

    def grow_block(self, on_round: Callable[[], bool] = lambda: False) -> None:
        """Train the rounds until the next evaluation, and call ``on_round`` after each, which may end the block."""
        end = min(self.rounds + self.parameters.block, self.most_rounds)
        while self._can_grow and self.rounds < end:
            growing = [booster.grow() for booster in self._boosters]
            self._can_grow = any(growing)
            if on_round():
                return

    def loss(self) -> float:
        """Mean loss of the training rows, over labels."""
        return float(np.mean([booster.loss() for booster in self._boosters]))

    def validation_scores(self) -> np.ndarray:
        """Scores of the validation rows by the model so far."""
        new = self.rounds - self._scored
        self._logits += np.hstack([b.logits(self._validation, self._scored, new) for b in self._boosters])
        self._scored += new
        return scores_of(self._task, self._inputs, self._logits)

    def state(self, rounds: int) -> State:
        """The model after its first ``rounds`` rounds."""
        saved = (booster.save(rounds) for booster in self._boosters)
        return {state_key(i): np.frombuffer(model, np.uint8) for i, model in enumerate(saved)}


def split_objectives(task: Task, config: TrainConfig, inputs: InputSpec, rows: EncodedRows) -> Iterator[BoostingRows]:
    """The training rows as a library takes them, once for each booster."""
    arrays, labels = {"numbers": rows.numbers, "codes": rows.codes}, rows.labels
    tensor = losses.class_weights(task, config, inputs)
    weights = None if tensor is None else tensor.numpy()
    if task.kind == "multilabel":
        for k in range(task.outputs):
            each = None if weights is None else np.where(labels[:, k] == 1, weights[k], 1.0)
            yield BoostingRows(arrays, labels[:, k], each, "binary", 1)
        return
    if task.kind == "regression":
        labels = (labels - inputs.label_mean) / inputs.label_std
    row_weights = rows.weights
    if weights is not None:
        by_class = weights[labels.astype(int)]
        row_weights = by_class if row_weights is None else by_class * row_weights
    yield BoostingRows(arrays, labels, row_weights, task.kind, task.outputs)
