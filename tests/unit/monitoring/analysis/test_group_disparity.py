"""Differences between groups: under parity the alarm keeps its error rate, and a real difference is found."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from cluster.values import Task
from features.disparity import DisparityLimit, Rate
from monitoring.analysis.group_disparity import GroupDisparity, measure_disparities
from monitoring.analysis.log_analysis import AnalysisRequest, analyze
from monitoring.analysis.segment_drift import ReferenceRows
from monitoring.drift_policy import DAY_S, LEAST_PER_WINDOW, MONTH_S, DriftPolicy, LogAnalysisPolicy
from monitoring.samples.logged_rows import LoggedRows

BINARY = Task(kind="binary", label="late")
GROUPS = ("f", "m")


def limit(rate: Rate = "positive", most: float = 0.1) -> DisparityLimit:
    return DisparityLimit(column="sex", rate=rate, max_difference=most, groups=GROUPS)


def policy(*limits: DisparityLimit, alpha: float = 0.05) -> DriftPolicy:
    return DriftPolicy(log_analysis=LogAnalysisPolicy(disparity=limits, alpha=alpha))


def day(rng: np.random.Generator, rates: tuple[float, float], rows: int = 200, labels: float = 1.0) -> LoggedRows:
    """Rows of both groups in turn, with positive decisions at their rates, and labels of 1 for a share of them."""
    sex = np.resize(GROUPS, rows)
    positive = rng.random(rows) < np.resize(rates, rows)
    known = np.where(rng.random(rows) < labels, 1.0, np.nan)
    times = rng.uniform(0, DAY_S, rows)
    return LoggedRows(pa.table({"sex": sex}), np.arange(rows).astype(str), times, 0.2 + 0.6 * positive, known)


def watch(days: list[LoggedRows], drift: DriftPolicy) -> GroupDisparity:
    windows = [(at * DAY_S, rows) for at, rows in enumerate(days)]
    assert drift.log_analysis is not None
    (disparity,) = measure_disparities(windows, BINARY, drift, drift.log_analysis)
    return disparity


def test_sequence_of_a_window_exceeds_under_parity_with_at_most_its_level_over_all_looks() -> None:
    """At the limit itself, the hardest case: 10 looks at a growing window, in 400 runs."""
    alpha, runs, false_alarms = 0.2, 400, 0
    drift = policy(limit(most=0.1), alpha=alpha)
    for seed in range(runs):
        rows = day(np.random.default_rng(seed), (0.45, 0.35), rows=2_000)
        looks = (watch([rows.select(np.arange(n))], drift) for n in range(100, 1_001, 100))
        false_alarms += any(look.exceeded for look in looks)
    assert false_alarms <= alpha * runs


def test_alarms_of_quiet_days_stay_within_the_budget() -> None:
    """30 stretches of ten days at parity, with a sequence from each day: as many alarms as the days may spend."""
    drift = DriftPolicy(false_alarms=10.0, log_analysis=LogAnalysisPolicy(disparity=(limit(most=0.01),)))
    stretches, alarms = 30, 0
    for seed in range(stretches):
        rng = np.random.default_rng(1_000 + seed)
        days = [day(rng, (0.3, 0.3)) for _ in range(10)]
        alarms += any(watch(days[max(0, now - 6) : now + 1], drift).exceeded for now in range(10))
    assert alarms <= stretches * 10 * drift.level("fairness")
    assert drift.level("fairness") == pytest.approx(1 / 30)


def test_difference_that_begins_late_is_found_within_days() -> None:
    """One sequence over all days would dilute it; the alarm says when it began."""
    rng = np.random.default_rng(7)
    days = [day(rng, (0.3, 0.3)) for _ in range(10)] + [day(rng, (0.55, 0.25)) for _ in range(8)]
    drift = policy(limit(), alpha=0.003)
    found = next(now for now in range(len(days)) if watch(days[: now + 1], drift).exceeded)
    assert 10 <= found <= 16
    disparity = watch(days, drift)
    assert disparity.since == 10 * DAY_S
    assert disparity.extremes == ("f", "m")
    assert 0.1 < disparity.low < disparity.difference < 0.45


@pytest.mark.parametrize("rate", ["true_positive", "error"])
def test_rates_of_labels_wait_for_labels(rate: Rate) -> None:
    rng = np.random.default_rng(3)
    drift = policy(limit(rate))
    unlabeled = watch([day(rng, (0.8, 0.3), labels=0.0) for _ in range(3)], drift)
    assert (unlabeled.low, unlabeled.difference, unlabeled.exceeded) == (0.0, 0.0, False)
    labeled = watch([day(rng, (0.8, 0.3), labels=0.5) for _ in range(5)], drift)
    assert labeled.exceeded
    assert sum(group.rows for group in labeled.groups.values()) == pytest.approx(500, abs=75)


def test_row_that_leaves_the_sample_later_does_not_count() -> None:
    """With 15 days, each keeps LEAST_PER_WINDOW rows at least: more would be gone at a later look."""
    analysis = LogAnalysisPolicy(disparity=(limit(),), rows=5_000)
    rows = day(np.random.default_rng(1), (0.3, 0.3), rows=3 * LEAST_PER_WINDOW)
    disparity = watch([rows], DriftPolicy(log_analysis=analysis))
    assert sum(group.rows for group in disparity.groups.values()) == LEAST_PER_WINDOW


def test_log_without_the_column_shows_nothing() -> None:
    rows = day(np.random.default_rng(1), (0.9, 0.1))
    bare = LoggedRows(rows.frame.rename_columns(["age"]), rows.ids, rows.times, rows.scores, rows.labels)
    assert watch([bare], policy(limit())).low == 0.0


def test_fairness_of_weight_zero_is_off() -> None:
    drift = policy(limit()).model_copy(update={"weights": {"fairness": 0.0}})
    assert drift.log_analysis is not None
    windows = [(0.0, day(np.random.default_rng(1), (0.9, 0.1)))]
    assert measure_disparities(windows, BINARY, drift, drift.log_analysis) == ()
    assert "fairness" not in drift.kinds


def test_limits_take_a_part_of_the_budget() -> None:
    without, drift = (
        DriftPolicy(false_alarms=1.0, log_analysis=LogAnalysisPolicy(disparity=limits)) for limits in ((), (limit(),))
    )
    assert without.monthly("fairness") == 0.0
    assert drift.monthly("fairness") == pytest.approx(1 / 10)
    assert sum(drift.level(kind) for kind in drift.kinds) * MONTH_S / DAY_S == pytest.approx(1.0)


def test_analysis_of_unequal_groups_has_one_finding_of_kind_fairness() -> None:
    rng = np.random.default_rng(5)
    rows = [day(rng, (0.7, 0.3), rows=600) for _ in range(3)]
    live = LoggedRows(
        pa.concat_tables([each.frame for each in rows]),
        np.arange(1_800).astype(str),
        np.concatenate([each.times + at * DAY_S for at, each in enumerate(rows)]),
        np.concatenate([each.scores for each in rows]),
        np.full(1_800, np.nan),
    )
    weights = dict.fromkeys(("multivariate", "labels", "estimate", "quality"), 0.0)
    drift = policy(limit(), limit("error")).model_copy(update={"weights": weights})
    windows = tuple(at * DAY_S for at in range(3))
    request = AnalysisRequest(model="m", version="1", windows=windows, since=windows[-1], policy=drift)
    past = day(rng, (0.5, 0.5))
    result = analyze(request, BINARY, (), ReferenceRows(past, past), live)
    (finding,) = result.findings
    assert (finding.kind, finding.name, finding.window) == ("fairness", "positive rate by sex", 2 * DAY_S)
    assert finding.features["positive rate by sex"] > 1.0
    assert [disparity.exceeded for disparity in result.disparities] == [True, False]
