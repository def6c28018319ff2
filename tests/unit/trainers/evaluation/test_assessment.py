"""The full assessment of a trained model, its checks and its card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from cluster.errors import ProjectError
from cluster.values import GateReport, Snapshot, TaskKind
from features.encoder import Arrays, Encoder
from features.manifest import MODEL_FILE
from tests.factories.errors import raises
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part
from tests.factories.trainers.training import trained
from trainers import metrics
from trainers.card.html import render_card
from trainers.card.model_card import CardLineage, FeatureFacts, ModelCard, SplitFacts, derive_limits
from trainers.config import ModelSpec, TrainConfig
from trainers.evaluation import assessment
from trainers.evaluation.assessment import Assessment, CandidateEvidence, ScoredSplit
from trainers.evaluation.fairness import FairnessPolicy, MitigationResult
from trainers.evaluation.quality_gate import GatePolicy
from trainers.evaluation.robustness import RobustnessPolicy
from trainers.evaluation.slices import SlicePolicy
from trainers.export.onnx_export import export
from trainers.loop.trainer import FitRequest, FitResult, calibrate, fit
from trainers.scoring import onnx_scorer

POLICY = GatePolicy(
    slices=SlicePolicy(columns=("color",), min_rows=60, max_ratio=10.0, max_regression=1.1),
    fairness=FairnessPolicy(groups=("color",), min_rows=30, max_error_difference=5.0),
    robustness=RobustnessPolicy(max_loss=10.0),
    resamples=100,
)


def _scorer(result: FitResult) -> assessment.ScoreFunction:
    """The module in torch; other tests compare it with the exported model."""
    scored = result.build_scorer()

    def score(arrays: Arrays) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(scored(torch.from_numpy(arrays["numbers"]), torch.from_numpy(arrays["codes"])).numpy())

    return score


def _evidence(result: FitResult, kind: TaskKind, champion: bool = True) -> CandidateEvidence:
    score = _scorer(result)

    def of(table: pa.Table) -> ScoredSplit:
        arrays = result.encoder.encode(table)
        return ScoredSplit(table, arrays, table["label"].to_numpy(), score(arrays))

    test = of(frame(kind, rows=1500, seed=7))
    return CandidateEvidence(
        task=TASKS[kind],
        inputs=result.inputs,
        score=score,
        train=of(part(frame(kind), "train")),
        validation=of(frame(kind, rows=600, seed=8)),
        test=test,
        temperature=result.temperature,
        champion_scores=test.scores if champion else None,
    )


def _card(kind: TaskKind, result: Assessment, report: GateReport) -> ModelCard:
    parts = (SplitFacts(name="test", rows=1500, start="2013-10-01 00:00", end="2013-12-31 00:00", label_mean=0.5),)
    features = tuple(
        FeatureFacts(name=c.name, kind=c.kind, origin="request", missing=0.6 * (c.name == "gappy")) for c in COLUMNS
    )
    return ModelCard(
        model="late",
        name="winner <1>",
        made_at=0.0,
        purpose="Who will be late & why",
        task=TASKS[kind],
        parts=parts,
        features=features,
        recipe={"train": {"epochs": 2}},
        precision="float32",
        latency={"onnxruntime_us_1": 20.0},
        size=1 << 20,
        train_metrics={},
        validation_metrics={},
        checks=report.checks,
        assessment=result,
        curve=((0.1, 0.2, 10), (0.9, 0.8, 10)),
        limits=derive_limits(parts, features, result),
        lineage=CardLineage(
            run_id="r", snapshot=Snapshot(table="t", id=1, rows=2), feature_hash="h", code_version="c", fingerprint="f"
        ),
    )


@pytest.mark.long
@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_assess_any_task_has_checks_and_card(kind: TaskKind) -> None:
    evidence = _evidence(trained(kind), kind)
    result = assessment.assess(POLICY, evidence)
    checks = assessment.check(POLICY, TASKS[kind], result)
    names = [check.name for check in checks]
    assert names[:4] == [
        "slices found by search",
        "slices found by search against the champion",
        "slices of color",
        "slices of color against the champion",
    ]
    assert {"error by color", "no feature is the label", "robust to 10% of values missing"} <= set(names)
    assert all(check.passed for check in checks)
    assert (result.calibration is None) == (kind == "regression")
    assert {i.feature for i in result.importance} == {c.name for c in COLUMNS}
    assert all(interval.low <= interval.value <= interval.high for interval in result.metrics.values())
    for attribution in result.attributions:
        assert attribution.score == pytest.approx(attribution.base + sum(attribution.parts.values()))
    card = _card(kind, result, GateReport(checks=checks))
    assert ModelCard.model_validate_json(card.model_dump_json()) == card
    assert json.loads(card.model_dump_json())["assessment"]["importance"]
    _page_is_whole(render_card(card))
    before = MitigationResult(method="reweigh", groups=result.fairness, metrics=dict.fromkeys(result.metrics, 0.125))
    mitigated = card.model_copy(update={"assessment": result.model_copy(update={"mitigation": before})})
    assert ModelCard.model_validate_json(mitigated.model_dump_json()) == mitigated
    page = render_card(mitigated)
    assert "Mitigation: reweigh" in page
    assert "0.125" in page
    alone = result.model_copy(update={"mitigation": MitigationResult(method="reweigh")})
    assert "Mitigation: reweigh" in render_card(card.model_copy(update={"assessment": alone}))


def _page_is_whole(page: str) -> None:
    for section in (
        "Gate",
        "Metrics",
        "Slices",
        "Groups",
        "Calibration",
        "Robustness",
        "Importance",
        "Data",
        "Lineage",
    ):
        assert f"<h2>{section}</h2>" in page
    assert "winner &lt;1&gt;" in page
    assert "Who will be late &amp; why" in page
    assert "Mostly missing in training: gappy (60%)." in page
    assert "<script" not in page
    assert "src=" not in page
    assert page.count("<svg") == page.count("</svg>") >= 5


def test_check_without_limits_checks_leakage_only() -> None:
    evidence = _evidence(trained(), "binary", champion=False)
    quiet = GatePolicy(slices=SlicePolicy(search=False))
    result = assessment.assess(quiet, evidence)
    assert [check.name for check in assessment.check(quiet, evidence.task, result)] == ["no feature is the label"]
    assert (result.slices, result.discovered_slices, result.fairness) == ((), (), ())


def test_assess_tensor_only_model_has_no_slices_or_skills() -> None:
    evidence = _evidence(trained("multiclass", columns=COLUMNS[4:]), "multiclass")
    result = assessment.assess(GatePolicy(), evidence)
    assert (result.discovered_slices, result.single_feature_skills) == ((), ())
    assert [i.feature for i in result.importance] == ["pixels"]
    assert assessment.check(GatePolicy(), evidence.task, result) == ()


def test_assess_unknown_slice_column_raises() -> None:
    evidence = _evidence(trained(), "binary")
    with raises(ProjectError, "project.unknown_gate_column", column="hue"):
        assessment.assess(GatePolicy(slices=SlicePolicy(columns=("hue",))), evidence)


@pytest.mark.long
def test_temperature_is_fitted_exported_and_assessed(tmp_path: Path) -> None:
    """Two epochs leave a model less sure than it could be."""
    raw = trained(config=TrainConfig(epochs=2, batch_size=64, workers=1, calibrate="temperature"))
    held_out = frame(rows=1000, seed=3)
    result = calibrate(raw, held_out)
    assert result.temperature < 0.9
    assert export(result, tmp_path, held_out) < 1e-5
    evidence = _evidence(result, "binary")
    calibration = assessment.assess(POLICY, evidence).calibration
    assert calibration is not None
    assert (calibration.applied, calibration.temperature) == (True, result.temperature)
    arrays, labels = evidence.test.arrays, evidence.test.labels
    before, after = _scorer(raw)(arrays), onnx_scorer.score(onnx_scorer.open_session(tmp_path / MODEL_FILE), arrays)
    assert calibration.ece_before == pytest.approx(metrics.evaluate(TASKS["binary"], before, labels)["ece"], abs=2e-3)
    assert calibration.ece_after == pytest.approx(metrics.evaluate(TASKS["binary"], after, labels)["ece"], abs=2e-3)
    assert calibration.log_loss_after < calibration.log_loss_before
    assert np.array_equal(np.argsort(before[:50]), np.argsort(after[:50]))
    assert calibrate(trained(), held_out).temperature == 1.0


def test_fit_calibrated_regression_raises_before_training() -> None:
    config = TrainConfig(calibrate="temperature")
    encoder = Encoder.fit(COLUMNS, frame("regression"))
    with raises(ProjectError, "project.regression_calibration"):
        fit(FitRequest(ModelSpec(), config, TASKS["regression"], encoder), None)  # type: ignore[arg-type]


def test_attributions_explain_rows_with_highest_middle_and_lowest_score() -> None:
    evidence = _evidence(trained("multiclass", columns=COLUMNS[4:]), "multiclass")
    likeliest = evidence.test.scores.max(axis=1)
    ordered = np.sort(likeliest)
    attributions = assessment.assess(GatePolicy(slices=SlicePolicy(search=False)), evidence).attributions
    assert [each.row for each in attributions] == ["highest score", "middle score", "lowest score"]
    assert [each.score for each in attributions] == pytest.approx([ordered[-1], ordered[750], ordered[0]], abs=1e-5)
    for each in attributions:
        at = int(np.abs(likeliest - each.score).argmin())
        assert each.output == TASKS["multiclass"].classes[evidence.test.scores[at].argmax()]
