"""Statistics of training rows, and rows that have none."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.errors import DataError
from cluster.values import TaskKind
from features.encoder import Encoder
from tests.factories.errors import raises
from tests.factories.trainers.frames import COLUMNS, TASKS
from trainers.input_spec import InputSpec

NUMBER, CATEGORY = COLUMNS[0], COLUMNS[3]
ENCODER = Encoder(columns=(NUMBER,), vocabularies={})


def _fit(kind: TaskKind, labels: list[float]) -> InputSpec:
    numbers = np.zeros((len(labels), 1), np.float32)
    arrays = {"numbers": numbers, "codes": np.empty((len(labels), 0), np.int64)}
    return InputSpec.fit(ENCODER, TASKS[kind], arrays, np.array(labels))


def test_regression_label_is_described_by_mean_and_deviation() -> None:
    inputs = _fit("regression", [1.0, 5.0])
    assert (inputs.label_mean, inputs.label_std, inputs.class_shares) == (3.0, 2.0, ())


def test_constant_label_has_deviation_one() -> None:
    inputs = _fit("regression", [4.0, 4.0])
    assert (inputs.label_mean, inputs.label_std) == (4.0, 1.0)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_class_label_is_not_standardized(kind: TaskKind) -> None:
    inputs = _fit(kind, [0.0, 1.0, 1.0, 1.0])
    assert (inputs.label_mean, inputs.label_std) == (0.0, 1.0)
    assert inputs.class_shares == (0.25, 0.75, 0.0)[: len(inputs.class_shares)]
    assert len(inputs.class_shares) == {"binary": 2, "multiclass": 3}[kind]


def test_fit_needs_a_number_or_a_category() -> None:
    arrays = {"numbers": np.empty((2, 0), np.float32), "codes": np.zeros((2, 1), np.int64)}
    categories = Encoder(columns=(CATEGORY,), vocabularies={"color": ("blue",)})
    assert InputSpec.fit(categories, TASKS["binary"], arrays, np.array([0.0, 1.0])).categories == ("color",)
    assert _fit("binary", [0.0, 1.0]).numbers == ("plain",)
    with raises(DataError, "data.no_input_columns"):
        InputSpec.fit(Encoder(columns=(), vocabularies={}), TASKS["binary"], arrays, np.array([0.0, 1.0]))


def test_fit_without_rows_is_refused() -> None:
    with raises(DataError, "data.empty_split", split="train"):
        _fit("binary", [])


def test_class_shares_of_weighted_rows_are_shares_of_weight() -> None:
    arrays = {"numbers": np.zeros((3, 1), np.float32), "codes": np.empty((3, 0), np.int64)}
    labels, weights = np.array([0.0, 1.0, 1.0]), np.array([1.0, 0.75, 0.25], np.float32)
    assert InputSpec.fit(ENCODER, TASKS["binary"], arrays, labels, weights).class_shares == (0.5, 0.5)
