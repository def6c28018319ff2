"""Several labels per row: fit, export, the gate's checks, and the LightGBM baseline."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from cluster.errors import DataError
from features.encoder import Encoder
from features.manifest import MODEL_FILE
from tests.factories.errors import raises
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part
from tests.factories.trainers.training import trained
from trainers import metrics
from trainers.config import TrainConfig
from trainers.data.encoding_task import EncodeRows, label_array
from trainers.evaluation import assessment
from trainers.evaluation.assessment import CandidateEvidence, ScoredSplit
from trainers.evaluation.fairness import FairnessPolicy
from trainers.evaluation.lightgbm_baseline import fit_baseline
from trainers.evaluation.quality_gate import GatePolicy
from trainers.evaluation.robustness import RobustnessPolicy
from trainers.evaluation.slices import SlicePolicy
from trainers.export.onnx_export import export
from trainers.input_spec import InputSpec
from trainers.loop.trainer import FitResult, calibrate
from trainers.scoring import onnx_scorer

TASK = TASKS["multilabel"]


@cache
def _result() -> FitResult:
    return trained("multilabel", config=TrainConfig(epochs=10, batch_size=64, lr=1e-2, workers=1))


@pytest.mark.long
def test_multilabel_export_scores_each_label(tmp_path: Path) -> None:
    rows = frame("multilabel", rows=80, seed=2)
    assert export(_result(), tmp_path, rows) < 1e-5
    scores = onnx_scorer.score(onnx_scorer.open_session(tmp_path / MODEL_FILE), _result().encoder.encode(rows))
    assert scores.shape == (80, 2)
    written = onnx_scorer.output_arrays(TASK, scores)
    for row, names in zip(scores, written["predicted"].to_pylist(), strict=True):
        assert names == [name for name, score in zip(TASK.classes, row, strict=True) if score >= 0.5]


def test_multilabel_temperature_lowers_the_log_loss() -> None:
    config = _result().config.model_copy(update={"calibrate": "temperature"})
    rows = part(frame("multilabel"), "validation")
    fitted_result = calibrate(FitResult(**{**vars(_result()), "config": config}), rows)
    assert fitted_result.temperature != 1.0
    arrays, labels = _result().encoder.encode(rows), label_array(rows["label"])
    losses = []
    for result in (_result(), fitted_result):
        with torch.inference_mode():
            inputs = torch.from_numpy(arrays["numbers"]), torch.from_numpy(arrays["codes"])
            losses.append(metrics.evaluate(TASK, result.build_scorer()(*inputs).numpy(), labels)["log_loss"])
    assert losses[1] <= losses[0]


def test_gate_assesses_multilabel() -> None:
    policy = GatePolicy(
        slices=SlicePolicy(columns=("color",), min_rows=60, max_ratio=10.0),
        fairness=FairnessPolicy(groups=("color",), min_rows=30, max_error_difference=0.9),
        robustness=RobustnessPolicy(max_loss=10.0),
        resamples=100,
    )
    result = _result()
    scored = result.build_scorer()

    def score(arrays: dict[str, np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(scored(torch.from_numpy(arrays["numbers"]), torch.from_numpy(arrays["codes"])).numpy())

    def of(table: pa.Table) -> ScoredSplit:
        arrays = result.encoder.encode(table)
        return ScoredSplit(table, arrays, label_array(table["label"]), score(arrays))

    parts = [of(frame("multilabel", rows=600, seed=seed)) for seed in (0, 8, 9)]
    result_assessment = assessment.assess(policy, CandidateEvidence(TASK, result.inputs, score, *parts))
    assert set(result_assessment.metrics) == set(metrics.METRICS["multilabel"])
    assert {one.feature for one in result_assessment.importance[:2]} <= {"plain", "pixels", "color"}
    # "blue" is the color itself, and one label of two.
    assert result_assessment.single_feature_skills[0].feature == "color"
    assert result_assessment.fairness[0].error_difference is not None
    assert all(attribution.output in TASK.classes for attribution in result_assessment.attributions)
    assert all(
        check.passed
        for check in assessment.check(policy.model_copy(update={"max_alone": None}), TASK, result_assessment)
    )


def test_baseline_fits_each_label() -> None:
    table = frame("multilabel")
    encoder, test = Encoder.fit(COLUMNS, part(table, "train")), frame("multilabel", rows=400, seed=5)
    scores = fit_baseline(TASK, encoder, part(table, "train"), parameters={"rounds": 30}).score(test)
    assert scores.shape == (400, 2)
    assert metrics.evaluate(TASK, scores, label_array(test["label"]))["auc"] > 0.8


def test_multilabel_labels_are_encoded_and_counted() -> None:
    table = frame("multilabel")
    labels = EncodeRows(Encoder.fit(COLUMNS, part(table, "train")))(table)["labels"]
    assert labels.shape == (600, 2)
    arrays = {"numbers": np.zeros((600, 1), np.float32), "codes": np.zeros((600, 0), np.int64)}
    three = TASK.model_copy(update={"classes": ("a", "b", "c")})
    with raises(DataError, "data.label_count", classes=3):
        InputSpec.fit(Encoder.fit(COLUMNS, table), three, arrays, labels)
