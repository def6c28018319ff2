"""Metrics by group and time, and calibration curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

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
    by_group = onnx_scorer.metrics_by_group(TASKS["binary"], scores, labels, groups)
    assert list(by_group) == ["a", "b"]
    assert by_group["a"]["auc"] == 1.0
    assert by_group["b"]["auc"] < 0.6
    assert sum(values["rows"] for values in by_group.values()) == 400


def test_metrics_by_time_use_calendar_months() -> None:
    table = frame(rows=90)
    by_month = onnx_scorer.metrics_by_time(
        TASKS["binary"], np.random.default_rng(0).random(90), table["label"].to_numpy(), table["as_of"]
    )
    assert {month: values["rows"] for month, values in by_month.items()} == {
        "1970-01": 31,
        "1970-02": 28,
        "1970-03": 31,
    }


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


def _doubling_model() -> onnx.ModelProto:
    shape = ["rows", 1]
    graph = helper.make_graph(
        [helper.make_node("Add", ["numbers", "numbers"], ["scores"])],
        "doubling",
        [helper.make_tensor_value_info("numbers", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("rows", [0, 1, 2, onnx_scorer.CALL_ROWS, onnx_scorer.CALL_ROWS + 1])
def test_score_covers_each_row_once_from_content_or_file(rows: int, tmp_path: Path) -> None:
    model, file = _doubling_model(), tmp_path / "doubling.onnx"
    onnx.save(model, file)
    numbers = np.arange(rows, dtype=np.float32)[:, None]
    for source in (model.SerializeToString(), file):
        assert np.array_equal(onnx_scorer.score(onnx_scorer.open_session(source), {"numbers": numbers}), 2 * numbers)


def test_open_session_of_absent_file_raises(tmp_path: Path) -> None:
    with raises(DataError, "data.model_file_missing", path=str(tmp_path / "none.onnx")):
        onnx_scorer.open_session(tmp_path / "none.onnx")
