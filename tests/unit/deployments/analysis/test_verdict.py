"""Verdicts keep their error probabilities at all times, and find challengers that are worse."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from cluster.errors import RolloutError
from cluster.row_losses import Metric, row_loss
from cluster.values import Task
from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence, VariantStats
from deployments.analysis.group_decisions import GroupCounts, GroupDecisions
from deployments.analysis.latency_histogram import LatencyHistogram
from deployments.analysis.mean_bounds import mean_bounds
from deployments.analysis.paired_moments import Moments, PairedMoments
from deployments.analysis.quality_test import compare_quality
from deployments.analysis.sequential_tests import log_e_above, log_e_below
from deployments.analysis.verdict import Verdict, judge
from deployments.rollout_policy import RolloutPolicy
from features.disparity import DisparityLimit
from tests.factories.deployments.tasks import BINARY, MULTICLASS
from tests.factories.errors import raises

POLICY = RolloutPolicy(steps=(0.5, 1.0), min_requests=50, min_labeled=50, margin=0.05, deadline_s=100.0)
ROLLOUTS, LOOKS, BATCH = 300, 25, 40


def at_most(bound: float, rollouts: int) -> int:
    """Events among ``rollouts`` that a probability of ``bound`` exceeds in one of a thousand runs."""
    return math.ceil(special.bdtrik(0.999, rollouts, bound))


def evidence(paired: PairedMoments, requests: int, errors: int = 0, champion_errors: int = 0) -> RolloutEvidence:
    champion = VariantStats(requests=requests, errors=champion_errors, failures=champion_errors)
    challenger = VariantStats(requests=requests, errors=errors, failures=errors)
    return RolloutEvidence(by_share={0.5: ComparisonEvidence(champion=champion, challenger=challenger, paired=paired)})


def simulate_costs(chance: np.random.Generator, rows: int, harm: float, metric: Metric) -> np.ndarray:
    """Costs of the champion's and the challenger's predictions, [2, rows]."""
    truth = chance.normal(-1.0, 1.0, rows)
    labels = (chance.random(rows) < 1.0 / (1.0 + np.exp(-truth))).astype(float)
    noise = chance.normal(0.0, 0.3, (2, rows)) + np.array([[0.0], [harm]]) * chance.normal(0.0, 1.0, rows)
    return np.array([row_loss(BINARY, 1.0 / (1.0 + np.exp(-(truth + n))), labels, metric) for n in noise])


def rollout(seed: int, harm: float, error_rate: float, policy: RolloutPolicy) -> tuple[str, int]:
    """Verdict of a simulated rollout that is judged after each batch, and the rows it took.

    ``harm`` is the spread of noise that the challenger adds to the champion's logits. Both fail requests, each of its
    own, at ``error_rate``.
    """
    chance, rows = np.random.default_rng(seed), LOOKS * BATCH
    champion, challenger = simulate_costs(chance, rows, harm, policy.metric)
    failures = (chance.random((2, rows)) < error_rate).cumsum(axis=1)
    paired = PairedMoments()
    for end in range(BATCH, rows + 1, BATCH):
        batch = slice(end - BATCH, end)
        paired += PairedMoments.from_losses(champion[batch], challenger[batch])
        rollout_evidence = evidence(paired, end, int(failures[0, end - 1]), int(failures[1, end - 1]))
        verdict = judge(rollout_evidence, 0.5, 0.0, policy)
        if verdict.kind != "hold":
            return verdict.kind, end
    return "hold", rows


def verdicts(harm: float, error_rate: float, policy: RolloutPolicy, rollouts: int = ROLLOUTS) -> list[str]:
    return [rollout(seed, harm, error_rate, policy)[0] for seed in range(rollouts)]


@pytest.mark.long
@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_judge_of_equal_variants_after_every_batch_keeps_alpha(metric: Metric) -> None:
    at_the_limit = POLICY.model_copy(update={"margin": 0.0, "error_margin": 0.0, "metric": metric})
    outcomes = verdicts(harm=0.0, error_rate=POLICY.max_error_rate, policy=at_the_limit)
    # There are no latencies and no key counts.
    spent = sum(at_the_limit.test_alpha(test) for test in ("quality", "error_rate", "error_ratio"))
    assert outcomes.count("abort") <= at_most(spent, ROLLOUTS)
    assert outcomes.count("advance") <= at_most(POLICY.alpha, ROLLOUTS)


@pytest.mark.long
def test_fixed_horizon_test_after_every_batch_exceeds_alpha() -> None:
    looks = np.arange(BATCH, LOOKS * BATCH + 1, BATCH)
    costs = np.array(
        [simulate_costs(np.random.default_rng(seed), LOOKS * BATCH, 0.0, "loss") for seed in range(ROLLOUTS)]
    )
    difference = costs[:, 1] - costs[:, 0]
    mean, square = (np.cumsum(d, axis=1)[:, looks - 1] / looks for d in (difference, difference**2))
    beyond = mean / np.sqrt((square - mean**2) / (looks - 1)) > special.stdtrit(looks - 1, 1.0 - POLICY.alpha)
    assert beyond[:, -1].sum() <= at_most(POLICY.alpha, ROLLOUTS)
    assert beyond.any(axis=1).mean() >= 2.0 * POLICY.alpha


@pytest.mark.long
@pytest.mark.parametrize(("metric", "margin"), [("loss", 0.05), ("accuracy", 0.3)])
def test_judge_of_equal_variants_advances_within_the_margin(metric: Metric, margin: float) -> None:
    policy = POLICY.model_copy(update={"metric": metric, "margin": margin})
    outcomes = verdicts(harm=0.0, error_rate=0.0, policy=policy, rollouts=100)
    assert outcomes.count("advance") >= 90
    # Without errors, quality alone can abort.
    assert outcomes.count("abort") <= at_most(policy.test_alpha("quality"), 100)


@pytest.mark.long
@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_compare_quality_at_the_margin_keeps_alpha(metric: Metric) -> None:
    costs = simulate_costs(np.random.default_rng(10**6), 10**6, 1.0, metric)
    margin = float(costs[1].mean() / costs[0].mean() - 1.0)
    policy = POLICY.model_copy(update={"metric": metric, "margin": margin})
    advanced = 0
    for seed in range(ROLLOUTS):
        costs, paired = simulate_costs(np.random.default_rng(seed), LOOKS * BATCH, 1.0, metric), PairedMoments()
        for end in range(BATCH, LOOKS * BATCH + 1, BATCH):
            paired += PairedMoments.from_losses(*costs[:, end - BATCH : end])
            # Apart from the test for a regression, which is one here.
            if not compare_quality(evidence(paired, end), policy).missing_evidence:
                advanced += 1
                break
    assert advanced <= at_most(policy.alpha, ROLLOUTS)


def test_judge_of_a_worse_challenger_aborts_soon() -> None:
    outcomes = [rollout(seed, 2.0, 0.0, POLICY) for seed in range(100)]
    assert all(kind == "abort" for kind, _ in outcomes)
    assert np.median([rows for _, rows in outcomes]) <= 200


def test_judge_of_a_failing_challenger_aborts_soon() -> None:
    outcomes = [rollout(seed, 0.0, 0.2, POLICY) for seed in range(100)]
    assert all(kind == "abort" for kind, _ in outcomes)


def test_log_e_above_at_the_error_limit_keeps_alpha() -> None:
    chance = np.random.default_rng(0)
    failures = chance.random((ROLLOUTS, 3_000)) < POLICY.max_error_rate
    counts = failures.cumsum(axis=1)
    looks = np.arange(10, 3_001, 10)
    alpha = POLICY.test_alpha("error_rate")
    threshold = math.log(1.0 / alpha)
    aborted = (log_e_above(counts[:, looks - 1], looks, POLICY.max_error_rate) >= threshold).any(axis=1)
    assert sum(aborted) <= at_most(alpha, ROLLOUTS)


def test_judge_with_memory_growth_beyond_the_limit_aborts_without_requests() -> None:
    most = POLICY.max_growth_mib
    assert judge(RolloutEvidence(memory_growth_mib=most), 0.5, 0.0, POLICY).kind == "hold"
    verdict = judge(RolloutEvidence(memory_growth_mib=most + 1.0), 0.5, 0.0, POLICY)
    assert (verdict.kind, verdict.figures["challenger_grown_mib"]) == ("abort", 1025.0)
    assert all(value in verdict.reason for value in ("1025 MiB", "1024 MiB"))
    unlimited = POLICY.model_copy(update={"max_growth_mib": None})
    assert judge(RolloutEvidence(memory_growth_mib=1e6), 0.5, 0.0, unlimited).kind == "hold"


def test_judge_without_data_follows_the_policy_after_the_deadline() -> None:
    for share in POLICY.steps:
        assert judge(RolloutEvidence(), share, 0.0, POLICY).kind == "hold"
        for default in ("hold", "abort", "advance"):
            policy = POLICY.model_copy(update={"no_data": default, "on_undecided": "advance"})
            verdict = judge(RolloutEvidence(), share, 1e9, policy)
            assert (verdict.kind, f"{default} by policy" in verdict.reason) == (default, True)
    assert judge(RolloutEvidence(), 0.5, 1e9, POLICY).kind == "abort"


def test_judge_below_the_counts_does_not_advance_by_default() -> None:
    policy = POLICY.model_copy(update={"on_undecided": "advance", "no_data": "hold"})
    few = evidence(PairedMoments.from_losses(np.ones(49), np.ones(49)), 10**4)
    assert judge(few, 0.5, 1e9, policy).kind == "hold"


def test_judge_without_labels_holds() -> None:
    assert judge(evidence(PairedMoments(), 10**6), 0.5, 0.0, POLICY).kind == "hold"


def test_judge_at_a_new_step_requires_its_own_counts() -> None:
    chance = np.random.default_rng(1)
    loss = chance.exponential(0.5, 5_000)
    rollout_evidence = evidence(PairedMoments.from_losses(loss, loss), 5_000)
    assert judge(rollout_evidence, 0.5, 0.0, POLICY).kind == "advance"
    verdict = judge(rollout_evidence, 1.0, 0.0, POLICY)
    assert verdict.kind == "hold"
    assert "0 of 50 requests" in verdict.reason


def test_judge_requires_requests_of_each_variant_that_gets_any() -> None:
    loss = np.random.default_rng(1).exponential(0.5, 5_000)
    alone = ComparisonEvidence(challenger=VariantStats(requests=5_000), paired=PairedMoments.from_losses(loss, loss))
    verdict = judge(RolloutEvidence(by_share={0.5: alone}), 0.5, 0.0, POLICY)
    assert (verdict.kind, "0 of 50 requests to the champion" in verdict.reason) == ("hold", True)
    assert judge(RolloutEvidence(by_share={1.0: alone}), 1.0, 0.0, POLICY).kind == "advance"


def test_judge_undecided_at_the_deadline_follows_the_policy() -> None:
    chance = np.random.default_rng(2)
    rollout_evidence = evidence(PairedMoments.from_losses(chance.exponential(0.5, 60), chance.exponential(0.5, 60)), 60)
    for default in ("hold", "abort", "advance"):
        policy = POLICY.model_copy(update={"on_undecided": default})
        assert judge(rollout_evidence, 0.5, 99.0, policy).kind == "hold"
        verdict = judge(rollout_evidence, 0.5, 101.0, policy)
        assert (verdict.kind, default in verdict.reason) == (default, True)


@given(st.integers(0, 300), st.integers(0, 300), st.floats(0.001, 0.4))
def test_log_e_with_more_failures_is_monotonic(errors: int, more: int, limit: float) -> None:
    requests = 700
    assert log_e_above(errors + more, requests, limit) >= log_e_above(errors, requests, limit) - 1e-9
    assert log_e_below(errors + more, requests, limit) <= log_e_below(errors, requests, limit) + 1e-9


@given(st.floats(0.0, 5.0), st.floats(0.0, 5.0), st.integers(0, 20))
def test_judge_with_a_larger_loss_gives_no_better_verdict(a: float, b: float, seed: int) -> None:
    order = {"advance": 0, "hold": 1, "abort": 2}
    chance = np.random.default_rng(seed)
    champion, noise = chance.exponential(0.5, 400), chance.normal(0.0, 0.3, 400)

    def kind(shift: float) -> Verdict:
        return judge(evidence(PairedMoments.from_losses(champion, champion + noise + shift), 400), 0.5, 0.0, POLICY)

    assert order[kind(min(a, b)).kind] <= order[kind(max(a, b)).kind]


@given(st.integers(2, 10**6), st.floats(1e-6, 0.4), st.floats(1e-6, 0.4))
def test_bounds_contain_the_mean_and_widen_as_alpha_shrinks(n: int, a: float, b: float) -> None:
    moments = Moments(n=n, mean=1.0, m2=float(n))
    strict, loose = min(a, b), max(a, b)
    (strict_low, strict_high), (low, high) = (mean_bounds(moments, alpha, 100) for alpha in (strict, loose))
    assert strict_low <= low < 1.0 < high <= strict_high


@given(st.lists(st.tuples(st.floats(0, 14), st.floats(0, 14)), max_size=40), st.integers(0, 40), st.floats(0, 1))
def test_paired_moments_merged_give_the_excess(rows: list[tuple[float, float]], cut: int, margin: float) -> None:
    array = np.array(rows).reshape(-1, 2)
    merged = PairedMoments.from_losses(*array[:cut].T) + PairedMoments.from_losses(*array[cut:].T)
    excess, direct = merged.excess(margin), array[:, 1] - (1.0 + margin) * array[:, 0]
    assert excess.n == direct.size
    assert excess.mean == pytest.approx(direct.mean() if direct.size else 0.0, abs=1e-9)
    assert excess.m2 == pytest.approx(direct.size * direct.var() if direct.size else 0.0, rel=1e-6, abs=1e-6)


def test_row_loss_follows_task_and_metric() -> None:
    half = math.log(2.0)
    assert row_loss(BINARY, np.array([0.5, 0.5]), np.array([0.0, 1.0])) == pytest.approx([half, half])
    assert row_loss(BINARY, np.array([0.0]), np.array([1.0])) == pytest.approx([-math.log(1e-6)])
    assert row_loss(MULTICLASS, np.array([[0.5, 0.25, 0.25]]), np.array([1.0])) == pytest.approx([2 * half])
    regression = Task(kind="regression", label="y")
    assert row_loss(regression, np.array([3.0]), np.array([1.0])) == pytest.approx([4.0])
    assert row_loss(BINARY, np.array([0.4, 0.6]), np.array([0.0, 0.0]), "accuracy").tolist() == [0.0, 1.0]
    assert row_loss(MULTICLASS, np.array([[0.2, 0.5, 0.3]]), np.array([1.0]), "accuracy").tolist() == [0.0]
    with raises(RolloutError, "rollout.metric_not_defined", metric="accuracy"):
        row_loss(regression, np.array([3.0]), np.array([1.0]), "accuracy")


@given(st.floats(0.01, 0.3))
def test_log_e_below_requires_enough_requests_without_errors(limit: float) -> None:
    assert (
        log_e_below(0, int(2.0 / limit), limit) < math.log(1.0 / POLICY.alpha) < log_e_below(0, int(6.0 / limit), limit)
    )


def test_judge_of_a_higher_error_rate_aborts_below_the_limit() -> None:
    chance = np.random.default_rng(3)
    loss = chance.exponential(0.5, 1_000)
    policy = POLICY.model_copy(update={"max_error_rate": 0.1})
    rollout_evidence = evidence(PairedMoments.from_losses(loss, loss), 200, errors=14)
    verdict = judge(rollout_evidence, 0.5, 0.0, policy)
    assert verdict.kind == "abort"
    assert "more often" in verdict.reason
    assert judge(rollout_evidence, 0.5, 0.0, policy.model_copy(update={"error_margin": None})).kind == "hold"


def test_judge_with_errors_shown_below_the_limit_advances() -> None:
    chance = np.random.default_rng(3)
    loss = chance.exponential(0.5, 10_000)
    rollout_evidence = evidence(PairedMoments.from_losses(loss, loss), 10_000, errors=60)
    assert judge(rollout_evidence, 0.5, 0.0, POLICY).kind == "advance"


def with_latency(champion_ms: float, challenger_ms: float, batches: int) -> RolloutEvidence:
    chance = np.random.default_rng(5)
    times = chance.lognormal(0.0, 0.5, (2, batches)) * np.array([[champion_ms], [challenger_ms]])
    loss = chance.exponential(0.5, 5_000)
    arms = [VariantStats(requests=5_000, latency=LatencyHistogram.from_values(of)) for of in times]
    step = ComparisonEvidence(champion=arms[0], challenger=arms[1], paired=PairedMoments.from_losses(loss, loss))
    return RolloutEvidence(by_share={0.5: step})


def test_judge_of_a_slower_challenger_aborts_beyond_the_floor() -> None:
    slow = judge(with_latency(20.0, 80.0, 2_000), 0.5, 0.0, POLICY)
    assert slow.kind == "abort"
    assert "slower" in slow.reason
    assert judge(with_latency(0.5, 2.0, 2_000), 0.5, 0.0, POLICY).kind == "advance"
    not_compared = POLICY.model_copy(update={"latency_quantile": None})
    assert judge(with_latency(20.0, 80.0, 2_000), 0.5, 0.0, not_compared).kind == "advance"


def test_judge_with_latency_to_advance_requires_latency_evidence() -> None:
    strict = POLICY.model_copy(update={"latency_to_advance": True})
    for batches, kind in ((10, "hold"), (2_000, "advance")):
        assert judge(with_latency(20.0, 20.0, batches), 0.5, 0.0, strict).kind == kind
        assert judge(with_latency(20.0, 20.0, batches), 0.5, 0.0, POLICY).kind == "advance"


def test_judge_with_a_broken_split_is_invalid() -> None:
    chance = np.random.default_rng(6)
    loss = chance.exponential(0.5, 5_000)

    def key_counts(champion: int, challenger: int) -> RolloutEvidence:
        arms = [VariantStats(requests=keys, keys=keys) for keys in (champion, challenger)]
        step = ComparisonEvidence(champion=arms[0], challenger=arms[1], paired=PairedMoments.from_losses(loss, loss))
        return RolloutEvidence(by_share={0.5: step})

    assert judge(key_counts(5_000, 5_000), 0.5, 0.0, POLICY).kind == "advance"
    verdict = judge(key_counts(6_000, 5_000), 0.5, 0.0, POLICY)
    assert (verdict.kind, verdict.check, verdict.remark) == ("invalid", "split", "invalid: split")
    assert "5000 of 11000 keys at 50%" in verdict.reason
    lenient = POLICY.model_copy(update={"on_undecided": "advance"})
    assert judge(key_counts(6_000, 5_000), 0.5, 1e9, lenient).kind == "invalid"
    unchecked = POLICY.model_copy(update={"unchecked": ("split",)})
    assert judge(key_counts(6_000, 5_000), 0.5, 0.0, unchecked).kind == "advance"


@pytest.mark.parametrize(("copies", "unanswered", "kind"), [(250, 0, "advance"), (0, 0, "hold"), (250, 210, "hold")])
def test_judge_counts_copies_toward_the_minimum_and_for_errors(copies: int, unanswered: int, kind: str) -> None:
    costs = np.random.default_rng(0).random(400)
    one = ComparisonEvidence(
        champion=VariantStats(requests=190, keys=190),
        challenger=VariantStats(requests=10, keys=10),
        copies=VariantStats(requests=copies, unanswered=unanswered),
        paired=PairedMoments.from_losses(costs, costs),
    )
    policy = POLICY.model_copy(update={"steps": (0.05, 1.0)})
    verdict = judge(RolloutEvidence(by_share={0.05: one}), 0.05, 0.0, policy)
    assert (verdict.kind, verdict.figures["step_requests"]) == (kind, 10 + copies - unanswered)
    assert (verdict.figures["copies"], verdict.figures["copies_unanswered"]) == (copies, unanswered)


def test_challenger_that_treats_groups_differently_is_aborted_and_one_without_evidence_held() -> None:
    limit = DisparityLimit(column="sex", rate="positive", max_difference=0.1, groups=("f", "m"))
    policy = POLICY.model_copy(update={"disparity": (limit,)})
    costs = simulate_costs(np.random.default_rng(1), 1_000, 0.0, "loss")
    equal = evidence(PairedMoments.from_losses(costs[0], costs[0]), 1_000)

    def judge_groups(counts: dict[str, GroupCounts]) -> Verdict:
        step = equal.by_share[0.5].model_copy(update={"groups": GroupDecisions(by_limit={limit.name: counts})})
        return judge(RolloutEvidence(by_share={0.5: step}), 0.5, 0.0, policy)

    same = GroupCounts(rows=1_000, champion=300, challenger=300, both=300)
    more = GroupCounts(rows=1_000, champion=300, challenger=600, both=300)
    assert judge(equal, 0.5, 0.0, POLICY).kind == "advance"
    held = judge_groups({"f": same})
    assert (held.kind, "positive rate by sex" in held.reason) == ("hold", True)
    assert judge_groups({"f": same, "m": same}).kind == "advance"
    aborted = judge_groups({"f": same, "m": more})
    assert (aborted.kind, aborted.compared) == ("abort", True)
    assert aborted.figures["challenger positive rate by sex"] == pytest.approx(0.3)
