"""Each check names what is wrong, and all of them together spend the declared error rate."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
from scipy import stats

from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence, VariantStats
from deployments.analysis.paired_moments import PairedMoments
from deployments.analysis.sample_ratio import log_e_first_keys
from deployments.analysis.validity.check_result import SCALE
from deployments.analysis.validity.contrasts import Estimate
from deployments.analysis.validity.validity_checks import HOLD_RATE, ValidityResult, check_alpha, check_validity
from deployments.analysis.validity.validity_evidence import LabelEvidence, Rate, Suspects, ValidityEvidence
from deployments.analysis.verdict import judge
from deployments.rollout_policy import EvidenceCheck, RolloutPolicy

POLICY = RolloutPolicy(steps=(0.5, 1.0), deadline_s=100.0)
CHECKS: tuple[EvidenceCheck, ...] = get_args(EvidenceCheck)
APART = Estimate(value=0.2, variance=0.0004, rows=2_000)
RELATED = Estimate(value=1.0, variance=0.01, rows=500)
UNSETTLED = Estimate(value=0.16, variance=0.0012, rows=2_000)
SUSPECTS = Suspects(rows=1, ids=("q7",))


def of_both(**values: Any) -> dict[str, LabelEvidence]:
    """The same evidence of labels for both versions."""
    return dict.fromkeys(("champion_labels", "challenger_labels"), LabelEvidence(**values))


UNSOUND: dict[str, list[dict[str, Any]]] = {
    "variant": [{"misassigned": SUSPECTS}],
    "scores": [{"inconsistent": SUSPECTS}, {"differing": SUSPECTS}, {"champion_scores": (Estimate(), APART)}],
    "requests": [{"lost": {0.5: (0, 60)}}],
    "duplicates": [
        {"rows": 400, "repeated_rows": Suspects(rows=60, ids=("q7",))},
        {"labeled": 400, "changed_labels": Suspects(rows=80, ids=("q7",))},
    ],
    "coverage": [
        {"coverage": (APART, Estimate())},
        {"coverage": (Estimate(), Estimate(), APART, Estimate())},
        {"log_e_fewer_labels": 12.0},
    ],
    "delay": [{"delay": APART}],
    "labels": [
        {"labels": (APART,)},
        of_both(class_shares=((Rate(count=0.0, units=300.0), 0.3),)),
    ],
    "loss": [
        {"champion_loss": APART},
        of_both(slope=Estimate(value=0.0, variance=0.01, rows=500)),
        of_both(slope=Estimate(value=-1.0, variance=0.03, rows=500)),
        of_both(far_off=Rate(count=9.0, units=9.0)),
        {"challenger_labels": LabelEvidence(log_e_copied=12.0)},
    ],
}
CASES = [(check, values) for check, cases in UNSOUND.items() for values in cases]


def check(split: float = 0.0, policy: RolloutPolicy = POLICY, pairs: int = 5_000, **values: Any) -> ValidityResult:
    return check_validity(ValidityEvidence(**values), policy, split, "no keys", pairs)


def evidence(challenger_loss: float = 1.0, validity: ValidityEvidence | None = None, **arm: int) -> RolloutEvidence:
    chance = np.random.default_rng(0)
    loss = chance.exponential(0.5, 5_000)
    stats = VariantStats(requests=5_000)
    challenger = stats.model_copy(update=arm)
    paired = PairedMoments.from_losses(loss, challenger_loss * loss)
    step = ComparisonEvidence(champion=stats, challenger=challenger, paired=paired)
    return RolloutEvidence(by_share={0.5: step}, validity=validity)


@pytest.mark.parametrize(("name", "values"), CASES, ids=[f"{name}{i}" for i, (name, _) in enumerate(CASES)])
def test_unsound_evidence_fails_the_check_of_its_name(name: EvidenceCheck, values: dict[str, Any]) -> None:
    result = check(**values)
    assert result.failed is not None
    assert result.failed.check == name
    assert check(policy=POLICY.model_copy(update={"unchecked": (name,)}), **values).failed is None
    # Neither version is blamed, although the challenger seems to be much worse; and nothing advances.
    for loss in (2.0, 0.5):
        verdict = judge(evidence(loss, ValidityEvidence(**values)), 0.5, 1e9, POLICY)
        assert (verdict.kind, verdict.check) == ("invalid", name)


@pytest.mark.parametrize("name", ["champion_labels", "challenger_labels"])
def test_labels_that_one_version_agrees_with_are_sound(name: str) -> None:
    """A champion that has decayed is why a new version is rolled out."""
    wrong = LabelEvidence(
        slope=Estimate(value=-1.0, variance=0.01, rows=500),
        far_off=Rate(count=90.0, units=90.0),
        class_shares=((Rate(count=0.0, units=300.0), 0.3),),
    )
    right = LabelEvidence(
        slope=Estimate(value=1.0, variance=0.01, rows=500),
        relation=RELATED,
        far_off=Rate(count=1.0, units=90.0),
        class_shares=((Rate(count=0.0, units=300.0), 0.01),),
    )
    result = check(**(of_both() | {"champion_labels": wrong, "challenger_labels": wrong} | {name: right}), labeled=500)
    assert (result.failed, result.suspicious, result.unproven) == (None, "", "")


@pytest.mark.parametrize(("trained", "failed"), [((0.1,), False), ((0.01,), True), ((0.0,), True), ((), True)])
def test_class_that_is_as_frequent_as_in_training_is_sound(trained: tuple[float, ...], failed: bool) -> None:
    """Both versions may all but rule out a class on rows that drifted since they were trained."""
    unexpected = of_both(class_shares=((Rate(count=50.0, units=500.0), 0.01),))
    result = check(**unexpected, trained_shares=trained)
    assert (result.failed is not None) == failed


def test_sound_evidence_passes_and_quality_is_judged() -> None:
    sound = ValidityEvidence(labeled=500, champion_labels=LabelEvidence(relation=RELATED))
    assert judge(evidence(1.0, sound), 0.5, 0.0, POLICY).kind == "advance"
    worse = judge(evidence(1.5, sound), 0.5, 0.0, POLICY)
    assert (worse.kind, worse.compared) == ("abort", True)


def test_checks_together_spend_the_error_rate() -> None:
    assert sum(check_alpha(name, POLICY) for name in CHECKS) == pytest.approx(POLICY.validity_alpha)
    assert POLICY.divide_alpha(4).validity_alpha == pytest.approx(POLICY.validity_alpha / 4.0)
    limit = math.log(1.0 / check_alpha("split", POLICY))
    assert check(limit - 0.01).failed is None
    failed = check(limit + 0.01).failed
    assert failed is not None
    assert failed.check == "split"


@pytest.mark.parametrize("name", ["split", "delay"])
def test_quality_waits_from_the_rate_of_a_hold_on(name: EvidenceCheck) -> None:
    limit = math.log(1.0 / (HOLD_RATE * check_alpha(name, POLICY)))
    for excess, waits in ((-0.1, False), (0.1, True)):
        if name == "split":
            result = check(limit + excess)
        else:
            variance = 1e-9
            gain = math.log1p(SCALE**2 / variance)
            value = math.sqrt(variance * (2.0 * (limit + excess) + gain))
            result = check(delay=Estimate(value=value, variance=variance, rows=2_000))
        assert (result.failed, result.suspicious != "") == (None, waits)


def test_quality_waits_for_less_while_few_rows_are_labeled() -> None:
    waits = [check(log_e, pairs=pairs).suspicious != "" for log_e in (1.9, 2.1) for pairs in (499, 500)]
    assert waits == [False, False, True, False]


def test_quality_waits_while_a_check_is_not_settled_also_past_the_deadline() -> None:
    related = {"labeled": 500, "champion_labels": LabelEvidence(relation=RELATED)}
    unsettled = ValidityEvidence(**related, delay=UNSETTLED)
    result = check_validity(unsettled, POLICY, 0.0, "", 5_000)
    assert (result.failed, result.suspicious != "") == (None, True)
    for loss in (1.0, 1.5):
        assert judge(evidence(loss, unsettled), 0.5, 0.0, POLICY).kind == "hold"
        late = judge(evidence(loss, unsettled), 0.5, 1e9, POLICY)
        assert (late.kind, late.remark) == ("hold", "evidence may be invalid")


def test_quality_waits_until_labels_are_shown_to_follow_scores() -> None:
    unknown = ValidityEvidence(labeled=500, champion_labels=LabelEvidence(relation=Estimate(rows=500)))
    assert judge(evidence(1.5, unknown), 0.5, 0.0, POLICY).kind == "hold"
    # The deadline's default applies: labels that say little are not wrong.
    assert judge(evidence(1.5, unknown), 0.5, 1e9, POLICY).kind == "abort"
    many = LabelEvidence(relation=Estimate(rows=1_000))
    assert judge(evidence(1.5, ValidityEvidence(labeled=1_000, champion_labels=many)), 0.5, 0.0, POLICY).kind == "abort"


def test_harm_by_failures_aborts_although_the_evidence_is_invalid() -> None:
    failing = evidence(1.0, ValidityEvidence(misassigned=SUSPECTS), errors=1_000, failures=1_000)
    verdict = judge(failing, 0.5, 0.0, POLICY)
    assert (verdict.kind, verdict.compared) == ("abort", False)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_log_e_first_keys_of_a_single_key_has_mean_one(share: float) -> None:
    e_values = [math.exp(log_e_first_keys({share: counts}, 4)) for counts in ((1, 0), (0, 1))]
    assert (1.0 - share) * e_values[0] + share * e_values[1] == pytest.approx(1.0)


def test_log_e_first_keys_adds_up_evidence_of_several_steps() -> None:
    assert log_e_first_keys({}, 3) == pytest.approx(0.0, abs=1e-9)
    assert log_e_first_keys({0.5: (100, 100), 1.0: (0, 50)}, 3) < 0.0
    assert log_e_first_keys({0.5: (100, 100), 1.0: (1, 50)}, 3) == math.inf
    one, two = {0.1: (930, 70)}, {0.1: (930, 70), 0.5: (430, 330)}
    assert 1.0 < log_e_first_keys(one, 3) < log_e_first_keys(two, 3)


@pytest.mark.long
def test_log_e_first_keys_of_a_sound_split_keeps_its_rate() -> None:
    chance, alarms, runs = np.random.default_rng(0), 0, 2_000
    limit = math.log(1.0 / 0.05)
    for _ in range(runs):
        keys: dict[float, tuple[int, int]] = {}
        alarm = False
        for share in (0.05, 0.25, 0.5):
            for total in range(200, 2_001, 200):
                challenger = keys.get(share, (0, 0))[1] + int(chance.binomial(200, share))
                keys[share] = (total - challenger, challenger)
                alarm = alarm or log_e_first_keys(keys, 4) >= limit
        alarms += alarm
    assert alarms <= stats.binom.ppf(0.999, runs, 0.05)
