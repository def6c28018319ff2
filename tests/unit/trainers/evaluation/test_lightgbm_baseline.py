"""The LightGBM baseline on every kind of task."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.values import TaskKind
from features.encoder import Encoder
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part
from trainers import metrics
from trainers.evaluation.lightgbm_baseline import PARAMETERS, fit_baseline, select_columns


@pytest.mark.parametrize(
    ("kind", "metric", "bound"), [("binary", "auc", 0.85), ("multiclass", "accuracy", 0.6), ("regression", "r2", 0.7)]
)
def test_baseline_scores_learn_any_task_and_less_from_fewer_columns(kind: TaskKind, metric: str, bound: float) -> None:
    table = frame(kind, rows=3000)
    train, test = part(table, "train"), part(table, "validation")
    encoder, few = Encoder.fit(COLUMNS, train), {**PARAMETERS, "rounds": 60}
    labels = test["label"].to_numpy()
    full = fit_baseline(TASKS[kind], encoder, train, parameters=few).score(test)
    less = fit_baseline(TASKS[kind], encoder, train, parameters=few, columns=["heavy", "color"]).score(test)
    value = metrics.evaluate(TASKS[kind], full, labels)[metric]
    assert value > bound
    assert metrics.evaluate(TASKS[kind], less, labels)[metric] < value
    assert np.array_equal(full, fit_baseline(TASKS[kind], encoder, train, parameters=few).score(test))


def test_baseline_with_validation_rows_stops_before_it_overfits() -> None:
    train, validation, test = (frame(rows=rows, seed=seed) for rows, seed in ((600, 0), (600, 1), (4000, 2)))
    encoder, labels = Encoder.fit(COLUMNS, train), test["label"].to_numpy()
    eager = {**PARAMETERS, "rounds": 1000, "learning_rate": 0.3, "min_child_samples": 5}
    stopped, all_rounds = (
        metrics.evaluate(
            TASKS["binary"],
            fit_baseline(TASKS["binary"], encoder, train, rows, parameters=eager).score(test),
            labels,
        )["log_loss"]
        for rows in (validation, None)
    )
    assert stopped < all_rounds - 0.05


def test_select_columns_keeps_order_and_vocabulary() -> None:
    encoder = Encoder.fit(COLUMNS, frame())
    assert [c.name for c in select_columns(encoder, ["color", "plain"]).columns] == ["plain", "color"]
    assert select_columns(encoder, ["color"]).vocabularies == encoder.vocabularies
    assert select_columns(encoder, ["plain"]).vocabularies == {}
