"""The gate: each check with its value, its limit and its reason."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from cluster.values import GateReport, Task
from tests.factories.trainers.frames import TASKS
from trainers.evaluation.bootstrap import paired_difference
from trainers.evaluation.quality_gate import GatePolicy, ScoredCandidate, Threshold, check_candidate

TASK = TASKS["binary"]


def _rows(skill: float, rows: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = (random.random(rows) < 0.3).astype(float)
    noise = np.random.default_rng(seed + 1).normal(size=rows)
    return 1 / (1 + np.exp(-(skill * (labels - 0.3) + noise))), labels


def _judge(policy: GatePolicy, skill: float = 2.0, **inputs: object) -> GateReport:
    scores, labels = _rows(skill)
    candidate = ScoredCandidate(TASK, scores, labels, 1e-7, {"auc": 0.9}, {"auc": 0.88})
    return check_candidate(policy, candidate._replace(**inputs))


@pytest.mark.parametrize(
    ("policy", "inputs", "failed"),
    [
        (GatePolicy(), {}, []),
        (GatePolicy(thresholds=(Threshold(metric="auc", min=0.8),)), {}, []),
        (GatePolicy(thresholds=(Threshold(metric="auc", min=0.99),)), {}, ["auc"]),
        (GatePolicy(thresholds=(Threshold(metric="log_loss", max=0.1),)), {}, ["log_loss"]),
        (GatePolicy(thresholds=(Threshold(metric="accuracy", min=0.5, max=0.6),)), {}, ["accuracy"]),
        (GatePolicy(), {"parity": 1e-2}, ["export parity"]),
        (GatePolicy(), {"parity": float("nan")}, ["export parity"]),
        (GatePolicy(max_gap=0.05), {}, []),
        (GatePolicy(max_gap=0.01), {}, ["train/validation gap"]),
        (GatePolicy(margin=0.01), {"champion_scores": _rows(2.0)[0]}, []),
        (GatePolicy(margin=0.01), {"champion_scores": _rows(4.0)[0]}, ["not worse than the champion"]),
        (GatePolicy(margin=0.01), {"champion_scores": None}, []),
        (GatePolicy(), {"champion_scores": _rows(4.0)[0]}, []),
        (GatePolicy(), {"original_scores": _rows(2.0)[0]}, []),
        (GatePolicy(), {"original_scores": _rows(2.2)[0]}, ["int8 as good as float"]),
        (GatePolicy(max_quantization_loss=0.2), {"original_scores": _rows(2.2)[0]}, []),
    ],
)
def test_check_candidate_fails_only_violated_limits(
    policy: GatePolicy, inputs: dict[str, object], failed: list[str]
) -> None:
    report = _judge(policy, **inputs)
    assert [check.name for check in report.failures] == failed
    assert report.passed == (not failed)
    for check in report.checks:
        assert ("is not" in check.reason) == (not check.passed)


def test_check_candidate_with_undefined_metric_fails() -> None:
    policy = GatePolicy(thresholds=(Threshold(metric="auc", min=0.1), Threshold(metric="auc", max=1.0)))
    auc = {"auc": 0.9}
    report = check_candidate(policy, ScoredCandidate(TASK, np.array([0.5, 0.6]), np.ones(2), 0.0, auc, auc))
    assert len(report.failures) == 2


@pytest.mark.long
def test_paired_difference_bound_covers_at_error_rate() -> None:
    """One-sided error 0.1 over 200 repetitions: at most 0.1 plus four standard errors of that share."""
    true = _difference(2.0, 2.3, rows=200_000, seed=10_000, resamples=1)[0]
    missed = sum(_difference(2.0, 2.3, rows=300, seed=seed, resamples=200)[1] > true for seed in range(200))
    assert missed / 200 <= 0.1 + 4 * np.sqrt(0.1 * 0.9 / 200)
    assert missed > 0


def _difference(champion: float, candidate: float, rows: int, seed: int, resamples: int) -> tuple[float, float]:
    labels = _rows(champion, rows, seed)[1]
    difference = paired_difference(
        TASK,
        _rows(candidate, rows, seed)[0],
        _rows(champion, rows, seed)[0],
        labels,
        alpha=0.1,
        resamples=resamples,
        seed=1,
    )
    return difference.value, difference.low


@pytest.mark.parametrize("task", [TASKS["multiclass"], TASKS["regression"]])
def test_paired_difference_of_loss_metric_is_positive_when_better(task: Task) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(3, size=500).astype(float)
    if task.kind == "multiclass":
        good, bad = (np.eye(3)[labels.astype(int)] * share + (1 - share) / 3 for share in (0.9, 0.2))
    else:
        good, bad = labels + 0.1 * random.normal(size=500), labels + random.normal(size=500)
    difference = paired_difference(task, good, bad, labels, alpha=0.05, resamples=100, seed=0)
    assert 0 < difference.low < difference.value


@pytest.mark.parametrize(
    ("name", "allowed", "refused"), [("alpha", 1e-6, 0.0), ("alpha", 0.49, 0.5), ("seed", 0, -1), ("margin", 0.0, -0.1)]
)
def test_gate_setting_is_refused_just_outside_its_bound(name: str, allowed: float, refused: float) -> None:
    assert getattr(GatePolicy.model_validate({name: allowed}), name) == allowed
    with pytest.raises(ValidationError, match=name):
        GatePolicy.model_validate({name: refused})


def test_default_policy_and_its_parts_are_within_their_bounds() -> None:
    assert GatePolicy.model_validate(GatePolicy().model_dump()) == GatePolicy()


@pytest.mark.parametrize(
    ("compression", "name"), [("int8", "int8 as good as float"), ("pruned by 50%", "pruned by 50% as good as whole")]
)
def test_check_against_original_names_what_it_replaces(compression: str, name: str) -> None:
    report = _judge(GatePolicy(), original_scores=_rows(2.0)[0], compression=compression)
    assert report.checks[-1].name == name
