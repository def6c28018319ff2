"""Metrics by group and time, and calibration curves."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.errors import DataError
from cluster.values import TaskKind
from tests.factories.errors import raises
from tests.factories.trainers.frames import TASKS, frame
from trainers.scoring import onnx_scorer


def test_metrics_by_group_cover_all_rows() -> None:
    random = np.random.default_rng(0)
    labels, scores = random.integers(2, size=400).astype(float), random.random(400)
    groups = random.choice(["a", "b"], size=400)
    scores = np.where(groups == "a", labels * 0.8 + 0.1, scores)
    found = onnx_scorer.metrics_by_group(TASKS["binary"], scores, labels, groups)
    assert list(found) == ["a", "b"]
    assert found["a"]["auc"] == 1.0
    assert found["b"]["auc"] < 0.6
    assert sum(values["rows"] for values in found.values()) == 400


def test_metrics_by_time_use_calendar_months() -> None:
    table = frame(rows=90)
    found = onnx_scorer.metrics_by_time(
        TASKS["binary"], np.random.default_rng(0).random(90), table["label"].to_numpy(), table["as_of"]
    )
    assert {month: values["rows"] for month, values in found.items()} == {"1970-01": 31, "1970-02": 28, "1970-03": 31}


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_calibration_curve_of_calibrated_scores_is_diagonal(kind: TaskKind) -> None:
    random = np.random.default_rng(0)
    chance = random.random(100_000)
    labels = (random.random(len(chance)) < chance).astype(float)
    scores = chance if kind == "binary" else np.stack([1 - chance, chance, 0 * chance], axis=1)
    bins = onnx_scorer.calibration_curve(TASKS[kind], scores, labels)
    assert sum(part.rows for part in bins) == len(labels)
    assert all(abs(part.score - part.share) < 0.02 for part in bins)
    assert [part.score for part in bins] == sorted(part.score for part in bins)


def test_calibration_curve_of_regression_raises() -> None:
    with raises(DataError, "data.regression_calibration_curve"):
        onnx_scorer.calibration_curve(TASKS["regression"], np.zeros(3), np.zeros(3))
