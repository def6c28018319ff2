"""Metrics by group and time, calibration, and the baseline."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.errors import DataError
from cluster.values import TaskKind
from features.encoder import Encoder
from tests.factories.errors import raises
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part
from trainers import metrics
from trainers.evaluation.lightgbm_baseline import baseline_scores, select_columns
from trainers.scoring import onnx_scorer


def test_groups_are_evaluated_apart_and_cover_all_rows() -> None:
    random = np.random.default_rng(0)
    labels, scores = random.integers(2, size=400).astype(float), random.random(400)
    groups = random.choice(["a", "b"], size=400)
    scores = np.where(groups == "a", labels * 0.8 + 0.1, scores)
    found = onnx_scorer.metrics_by_group(TASKS["binary"], scores, labels, groups)
    assert list(found) == ["a", "b"]
    assert found["a"]["auc"] == 1.0
    assert found["b"]["auc"] < 0.6
    assert sum(values["rows"] for values in found.values()) == 400


def test_time_is_cut_into_calendar_months() -> None:
    table = frame(rows=90)
    found = onnx_scorer.metrics_by_time(
        TASKS["binary"], np.random.default_rng(0).random(90), table["label"].to_numpy(), table["as_of"]
    )
    assert {month: values["rows"] for month, values in found.items()} == {"1970-01": 31, "1970-02": 28, "1970-03": 31}


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_a_calibrated_score_lies_on_the_diagonal(kind: TaskKind) -> None:
    random = np.random.default_rng(0)
    chance = random.random(100_000)
    labels = (random.random(len(chance)) < chance).astype(float)
    scores = chance if kind == "binary" else np.stack([1 - chance, chance, 0 * chance], axis=1)
    bins = onnx_scorer.calibration_curve(TASKS[kind], scores, labels)
    assert sum(part.rows for part in bins) == len(labels)
    assert all(abs(part.score - part.share) < 0.02 for part in bins)
    assert [part.score for part in bins] == sorted(part.score for part in bins)


def test_a_regression_has_no_calibration() -> None:
    with raises(DataError, "data.regression_calibration_curve"):
        onnx_scorer.calibration_curve(TASKS["regression"], np.zeros(3), np.zeros(3))


@pytest.mark.parametrize(
    ("kind", "metric", "bound"), [("binary", "auc", 0.85), ("multiclass", "accuracy", 0.6), ("regression", "r2", 0.7)]
)
def test_the_baseline_learns_every_kind_and_less_from_less(kind: TaskKind, metric: str, bound: float) -> None:
    table = frame(kind, rows=3000)
    train, test = part(table, "train"), part(table, "validation")
    encoder = Encoder.fit(COLUMNS, train)
    labels = test["label"].to_numpy()
    full = baseline_scores(TASKS[kind], encoder, train, test, trees=80)
    less = baseline_scores(TASKS[kind], encoder, train, test, trees=80, columns=["heavy", "colour"])
    value = metrics.evaluate(TASKS[kind], full, labels)[metric]
    assert value > bound
    assert metrics.evaluate(TASKS[kind], less, labels)[metric] < value
    assert np.array_equal(full, baseline_scores(TASKS[kind], encoder, train, test, trees=80))


def test_an_encoder_of_some_columns_keeps_their_order_and_vocabulary() -> None:
    encoder = Encoder.fit(COLUMNS, frame())
    assert [c.name for c in select_columns(encoder, ["colour", "plain"]).columns] == ["plain", "colour"]
    assert select_columns(encoder, ["colour"]).vocabularies == encoder.vocabularies
    assert select_columns(encoder, ["plain"]).vocabularies == {}
