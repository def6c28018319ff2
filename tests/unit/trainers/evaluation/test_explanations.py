"""Importance and Shapley values of models whose true ones are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.encoder import Arrays, Encoder
from tests.factories.trainers.frames import COLUMNS, TASKS, frame
from trainers.evaluation import explanations
from trainers.evaluation.explanations import FeatureLocation
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


def test_feature_locations_match_encoder() -> None:
    assert explanations.feature_locations(INPUTS) == {
        "plain": FeatureLocation("numbers", slice(0, 1)),
        "heavy": FeatureLocation("numbers", slice(1, 2)),
        "gappy": FeatureLocation("numbers", slice(2, 3)),
        "pixels": FeatureLocation("numbers", slice(3, 7)),
        "color": FeatureLocation("codes", slice(0, 1)),
    }


def test_permutation_importance_of_ignored_feature_is_zero() -> None:
    importances = explanations.permutation_importance(
        TASKS["binary"], INPUTS, _linear, ARRAYS, LABELS, repeats=3, seed=0
    )
    losses = {i.feature: i.loss for i in importances}
    assert [i.feature for i in importances[-2:]] == ["heavy", "gappy"]
    assert losses["heavy"] == losses["gappy"] == 0
    assert min(losses["plain"], losses["pixels"]) > 0.05
    assert [i.loss for i in importances] == sorted(losses.values(), reverse=True)


def test_shapley_values_of_linear_model_are_its_terms() -> None:
    """Against one background row: weight times difference, exactly (Lundberg & Lee 2017, corollary 1)."""
    row, base = ({name: values[i : i + 1] for name, values in ARRAYS.items()} for i in (5, 9))
    start, parts = explanations.shapley_values(INPUTS, _linear, row, base, orders=3, seed=0)
    assert start == pytest.approx(float(_linear(base)[0]))
    assert parts["plain"] == pytest.approx(2 * float(row["numbers"][0, 0] - base["numbers"][0, 0]), rel=1e-5)
    assert parts["pixels"] == pytest.approx(float((row["numbers"] - base["numbers"])[0, 3:].sum()), rel=1e-4)
    assert parts["heavy"] == parts["gappy"] == 0


@given(st.integers(0, 999), st.integers(0, 50))
def test_shapley_values_add_up_for_any_model(at: int, seed: int) -> None:
    """Missing values and products of features too."""

    def score(arrays: Arrays) -> np.ndarray:
        missing = np.isnan(arrays["numbers"][:, 2])
        return np.where(missing, 0.3, _linear(arrays) * arrays["codes"][:, 0])

    row = {name: values[at : at + 1] for name, values in ARRAYS.items()}
    start, parts = explanations.shapley_values(INPUTS, score, row, ARRAYS, orders=4, seed=seed)
    assert start + sum(parts.values()) == pytest.approx(float(score(row)[0]), abs=1e-6)
