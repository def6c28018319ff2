"""On the path of health, steps are carried by what can be known without labels, and no reason promises more."""

from typing import Any

import numpy as np
import pytest

from cluster.values import Task
from deployments.analysis.clipped_differences import ClippedDifferences
from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence, VariantStats
from deployments.analysis.health import check_agreement, check_estimated_cost, estimated_difference
from deployments.analysis.latency_histogram import LatencyHistogram
from deployments.analysis.paired_moments import PairedMoments
from deployments.analysis.score_agreement import ScoreAgreement
from deployments.analysis.verdict import judge
from deployments.label_delay import follow_label_delay
from deployments.rollout_policy import DAY_S, RolloutPolicy
from tests.factories.deployments.tasks import BINARY

REGRESSION = Task(kind="regression", label="minutes")
POLICY = follow_label_delay(RolloutPolicy(steps=(0.5, 1.0)), 90 * DAY_S)


def agreement(noise: float, rows: int = 2_000, seed: int = 0) -> ScoreAgreement:
    chance = np.random.default_rng(seed)
    logits = chance.normal(-1.0, 1.0, rows)
    champion, challenger = (1.0 / (1.0 + np.exp(-x)) for x in (logits, logits + noise * chance.normal(0, 1, rows)))
    return ScoreAgreement.from_scores(BINARY, champion, challenger, "loss")


def evidence(noise: float = 0.2, rows: int = 2_000, **changes: Any) -> RolloutEvidence:
    latency = LatencyHistogram.from_values(20.0 * np.random.default_rng(1).lognormal(0.0, 0.3, 1_000))
    stats = VariantStats(requests=1_000, keys=1_000, latency=latency)
    values = {"champion": stats, "challenger": stats, "agreement": agreement(noise, rows)}
    return RolloutEvidence(by_share={0.5: ComparisonEvidence(**(values | changes))})


def test_healthy_challenger_advances_without_labels_and_the_reason_says_so() -> None:
    verdict = judge(evidence(), 0.5, 0.0, POLICY)
    assert verdict.kind == "advance"
    assert "0 labeled rows" in verdict.reason
    assert "not worse" not in verdict.reason


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"noise": 1.5}, "max_disagreement"),
        ({"noise": 1.6}, "max_estimated_excess"),
        ({"rows": 49}, "49 of 50 rows"),
        (dict.fromkeys(("champion", "challenger"), VariantStats(requests=100, keys=100)), "error rate"),
        (dict.fromkeys(("champion", "challenger"), VariantStats(requests=1_000, keys=1_000)), "quantile"),
    ],
    ids=["disagreement", "estimated_cost", "few_rows", "few_requests", "no_latencies"],
)
def test_what_is_not_shown_to_be_healthy_waits_and_is_aborted_at_the_deadline(changes: dict, words: str) -> None:
    policy = POLICY if "max_estimated" in words else POLICY.model_copy(update={"max_estimated_excess": None})
    policy = policy.model_copy(update={"max_disagreement": 1.0}) if "max_estimated" in words else policy
    early, late = (judge(evidence(**changes), 0.5, age, policy) for age in (0.0, 8 * DAY_S))
    assert (early.kind, late.kind) == ("hold", "abort")
    assert words in early.reason


def test_labels_that_come_early_and_show_harm_abort() -> None:
    losses = np.full(60, 0.1), np.full(60, 2.0)
    early = ClippedDifferences.from_losses(BINARY, *losses, "loss")
    verdict = judge(evidence(paired=PairedMoments.from_losses(*losses), early=early), 0.5, 0.0, POLICY)
    assert verdict.kind == "abort"
    assert "worse" in verdict.reason


def test_disagreement_never_aborts_before_the_deadline() -> None:
    result = check_agreement(evidence(noise=3.0), POLICY)
    assert not result.regression
    assert result.figures["disagreement_excess_upper"] > 0.0


def test_estimate_of_a_regression_is_refused() -> None:
    champion = np.random.default_rng(0).normal(size=500)
    of_regression = ScoreAgreement.from_scores(REGRESSION, champion, champion + 0.1, "loss")
    without = evidence(agreement=of_regression)
    assert check_estimated_cost(without, POLICY).figures == {}
    verdict = judge(without, 0.5, 0.0, POLICY)
    assert verdict.kind == "advance"
    assert "no estimate" in verdict.reason


@pytest.mark.long
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_estimated_difference_covers_labels_that_follow_a_mixture_of_both(weight: float) -> None:
    """``weight`` is the champion's part of the mixture."""
    covered, runs, rows = 0, 200, 400
    for seed in range(runs):
        chance = np.random.default_rng(seed)
        logits = chance.normal(-1.0, 1.0, rows)
        p, q = (1.0 / (1.0 + np.exp(-x)) for x in (logits, logits + 0.7 * chance.normal(0, 1, rows)))
        low, high = estimated_difference(ScoreAgreement.from_scores(BINARY, p, q, "loss"), POLICY)
        truth = weight * p + (1 - weight) * q
        costs = [-(truth * np.log(x) + (1 - truth) * np.log(1 - x)) for x in (p, q)]
        covered += low <= float((costs[1] - costs[0]).mean()) <= high
    assert covered >= 0.95 * runs
