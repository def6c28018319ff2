"""Importance of features of a model that uses some of them."""

from __future__ import annotations

import numpy as np

from features.encoder import Arrays, Encoder
from tests.factories.trainers.frames import COLUMNS, TASKS, frame
from trainers.evaluation import explanations
from trainers.input_spec import InputSpec

TABLE = frame(rows=1000)
ENCODER = Encoder.fit(COLUMNS, TABLE)
ARRAYS = ENCODER.encode(TABLE)
LABELS = TABLE["label"].to_numpy()
INPUTS = InputSpec.fit(ENCODER, TASKS["binary"], ARRAYS, LABELS)


def _linear(arrays: Arrays) -> np.ndarray:
    """Known: 2 * plain + 3 * (color code 3) + the sum of pixels; the others do nothing."""
    color = (arrays["codes"][:, 0] == 3).astype(float)
    return 2 * arrays["numbers"][:, 0].astype(float) + 3 * color + arrays["numbers"][:, 3:].sum(axis=1)


def test_permutation_importance_of_ignored_feature_is_zero() -> None:
    importances = explanations.permutation_importance(
        TASKS["binary"], INPUTS, _linear, ARRAYS, LABELS, repeats=3, seed=0
    )
    losses = {i.feature: i.loss for i in importances}
    assert [i.feature for i in importances[-2:]] == ["heavy", "gappy"]
    assert losses["heavy"] == losses["gappy"] == 0
    assert min(losses["plain"], losses["pixels"]) > 0.05
    assert [i.loss for i in importances] == sorted(losses.values(), reverse=True)
