"""The judge keeps its error rates however often it looks, and finds what is plainly worse."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.contracts import Task
from deployments.evidence import Arm, Evidence, Moments, Paired, RolloutEvidence, losses
from deployments.judge import Verdict, judge, log_e_above, log_e_below, lower_bound, upper_bound
from deployments.policy import RolloutPolicy
from tests.deployments.bundles import BINARY, MULTICLASS

POLICY = RolloutPolicy(steps=(0.5, 1.0), min_requests=50, min_labelled=50, margin=0.05, deadline_s=100.0)
ROLLOUTS, LOOKS, BATCH = 400, 40, 25
# Three standard errors of a proportion of POLICY.alpha over ROLLOUTS.
SLACK = 3.0 * math.sqrt(POLICY.alpha * (1.0 - POLICY.alpha) / ROLLOUTS)

values = st.lists(st.floats(-100.0, 100.0), min_size=0, max_size=30)


def evidence(paired: Paired, requests: int, errors: int = 0) -> RolloutEvidence:
    arm = Arm(requests=requests, errors=errors)
    return RolloutEvidence(by_share={0.5: Evidence(champion=Arm(requests=requests), challenger=arm, paired=paired)})


def rollout(seed: int, harm: float, error_rate: float, policy: RolloutPolicy) -> tuple[str, int]:
    """Verdict of a simulated rollout that is looked at after each batch, and the rows it took.

    ``harm`` is the spread of noise that the challenger adds, in logits, to what the champion knows.
    """
    chance = np.random.default_rng(seed)
    rows = LOOKS * BATCH
    truth = chance.normal(-1.0, 1.0, rows)
    labels = (chance.random(rows) < 1.0 / (1.0 + np.exp(-truth))).astype(float)
    noise = chance.normal(0.0, 0.3, (2, rows)) + np.array([[0.0], [harm]]) * chance.normal(0.0, 1.0, rows)
    champion, challenger = (losses(BINARY, 1.0 / (1.0 + np.exp(-(truth + n))), labels) for n in noise)
    failures = chance.random(rows) < error_rate
    paired = Paired()
    for end in range(BATCH, rows + 1, BATCH):
        batch = slice(end - BATCH, end)
        paired += Paired.of(champion[batch], challenger[batch])
        verdict = judge(evidence(paired, end, int(failures[:end].sum())), 0.5, 0.0, policy)
        if verdict.kind != "hold":
            return verdict.kind, end
    return "hold", rows


def verdicts(harm: float, error_rate: float, policy: RolloutPolicy, rollouts: int = ROLLOUTS) -> list[str]:
    return [rollout(seed, harm, error_rate, policy)[0] for seed in range(rollouts)]


def test_equal_variants_are_seldom_aborted_though_every_batch_is_looked_at() -> None:
    at_the_limit = POLICY.model_copy(update={"margin": 0.0})
    outcomes = verdicts(harm=0.0, error_rate=POLICY.max_error_rate, policy=at_the_limit)
    assert outcomes.count("abort") / ROLLOUTS <= POLICY.alpha + SLACK
    assert outcomes.count("advance") / ROLLOUTS <= POLICY.alpha + SLACK


def test_equal_variants_are_advanced_within_the_margin() -> None:
    outcomes = verdicts(harm=0.0, error_rate=0.0, policy=POLICY, rollouts=100)
    assert outcomes.count("advance") >= 90
    assert outcomes.count("abort") <= 100 * POLICY.alpha


def test_a_plainly_worse_challenger_is_aborted_soon() -> None:
    outcomes = [rollout(seed, 2.0, 0.0, POLICY) for seed in range(100)]
    assert all(kind == "abort" for kind, _ in outcomes)
    assert np.median([rows for _, rows in outcomes]) <= 200


def test_a_challenger_that_fails_requests_is_aborted_soon() -> None:
    outcomes = [rollout(seed, 0.0, 0.2, POLICY) for seed in range(100)]
    assert all(kind == "abort" for kind, _ in outcomes)


def test_one_that_fails_at_the_limit_is_seldom_aborted_over_a_long_rollout() -> None:
    chance = np.random.default_rng(0)
    failures = chance.random((ROLLOUTS, 3_000)) < POLICY.max_error_rate
    counts = failures.cumsum(axis=1)
    looks = range(10, 3_001, 10)
    threshold = math.log(2.0 / POLICY.alpha)
    aborted = [any(log_e_above(int(c[n - 1]), n, POLICY.max_error_rate) >= threshold for n in looks) for c in counts]
    assert np.mean(aborted) <= POLICY.alpha / 2.0 + SLACK


def test_without_evidence_nothing_advances() -> None:
    for share in POLICY.steps:
        assert judge(RolloutEvidence(), share, 0.0, POLICY).kind == "hold"
        for default in ("hold", "advance"):
            policy = POLICY.model_copy(update={"on_undecided": default})
            assert judge(RolloutEvidence(), share, 1e9, policy).kind == "hold"
    assert judge(RolloutEvidence(), 0.5, 1e9, POLICY).kind == "abort"


def test_requests_without_labels_never_advance() -> None:
    assert judge(evidence(Paired(), 10**6), 0.5, 0.0, POLICY).kind == "hold"


def test_each_step_needs_its_own_counts() -> None:
    chance = np.random.default_rng(1)
    loss = chance.exponential(0.5, 5_000)
    seen = evidence(Paired.of(loss, loss), 5_000)
    assert judge(seen, 0.5, 0.0, POLICY).kind == "advance"
    held = judge(seen, 1.0, 0.0, POLICY)
    assert held.kind == "hold"
    assert "0 of 50 requests" in held.reason


def test_undecided_past_the_deadline_is_settled_by_policy() -> None:
    chance = np.random.default_rng(2)
    seen = evidence(Paired.of(chance.exponential(0.5, 60), chance.exponential(0.5, 60)), 60)
    for default in ("hold", "abort", "advance"):
        policy = POLICY.model_copy(update={"on_undecided": default})
        assert judge(seen, 0.5, 99.0, policy).kind == "hold"
        verdict = judge(seen, 0.5, 101.0, policy)
        assert (verdict.kind, default in verdict.reason) == (default, True)


@given(st.integers(0, 300), st.integers(0, 300), st.floats(0.001, 0.4))
def test_more_failures_never_look_better(errors: int, more: int, limit: float) -> None:
    requests = 700
    assert log_e_above(errors + more, requests, limit) >= log_e_above(errors, requests, limit) - 1e-9
    assert log_e_below(errors + more, requests, limit) <= log_e_below(errors, requests, limit) + 1e-9


@given(st.floats(0.0, 5.0), st.floats(0.0, 5.0), st.integers(0, 20))
def test_a_larger_loss_never_gives_a_better_verdict(a: float, b: float, seed: int) -> None:
    order = {"advance": 0, "hold": 1, "abort": 2}
    chance = np.random.default_rng(seed)
    champion, noise = chance.exponential(0.5, 400), chance.normal(0.0, 0.3, 400)

    def kind(shift: float) -> Verdict:
        return judge(evidence(Paired.of(champion, champion + noise + shift), 400), 0.5, 0.0, POLICY)

    assert order[kind(min(a, b)).kind] <= order[kind(max(a, b)).kind]


@given(st.integers(2, 10**6), st.floats(1e-6, 0.4), st.floats(1e-6, 0.4))
def test_bounds_enclose_the_mean_and_widen_with_certainty(n: int, a: float, b: float) -> None:
    moments = Moments(n=n, mean=1.0, m2=float(n))
    strict, loose = min(a, b), max(a, b)
    assert lower_bound(moments, strict, 100) <= lower_bound(moments, loose, 100) < 1.0
    assert 1.0 < upper_bound(moments, loose, 100) <= upper_bound(moments, strict, 100)


@given(values, values)
def test_moments_merge_as_if_taken_together(a: list[float], b: list[float]) -> None:
    merged, whole = Moments.of(np.array(a)) + Moments.of(np.array(b)), Moments.of(np.array(a + b))
    assert merged.n == whole.n
    assert merged.mean == pytest.approx(whole.mean, abs=1e-9)
    assert merged.m2 == pytest.approx(whole.m2, rel=1e-9, abs=1e-6)


@given(st.lists(st.tuples(st.floats(0, 14), st.floats(0, 14)), max_size=40), st.integers(0, 40), st.floats(0, 1))
def test_paired_losses_merge_and_give_the_excess(rows: list[tuple[float, float]], cut: int, margin: float) -> None:
    array = np.array(rows).reshape(-1, 2)
    merged = Paired.of(*array[:cut].T) + Paired.of(*array[cut:].T)
    excess, direct = merged.excess(margin), Moments.of(array[:, 1] - (1.0 + margin) * array[:, 0])
    assert excess.n == direct.n
    assert excess.mean == pytest.approx(direct.mean, abs=1e-9)
    assert excess.m2 == pytest.approx(direct.m2, rel=1e-6, abs=1e-6)


def test_losses_by_task() -> None:
    half = math.log(2.0)
    assert losses(BINARY, np.array([0.5, 0.5]), np.array([0.0, 1.0])) == pytest.approx([half, half])
    assert losses(BINARY, np.array([0.0]), np.array([1.0])) == pytest.approx([-math.log(1e-6)])
    assert losses(MULTICLASS, np.array([[0.5, 0.25, 0.25]]), np.array([1.0])) == pytest.approx([2 * half])
    regression = Task(kind="regression", label="y")
    assert losses(regression, np.array([3.0]), np.array([1.0])) == pytest.approx([4.0])


@given(st.floats(0.01, 0.3))
def test_a_few_requests_without_errors_do_not_show_a_low_error_rate(limit: float) -> None:
    assert (
        log_e_below(0, int(2.0 / limit), limit) < math.log(1.0 / POLICY.alpha) < log_e_below(0, int(6.0 / limit), limit)
    )
