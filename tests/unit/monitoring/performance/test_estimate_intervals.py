"""Intervals of estimates: their parts by hand, refusals by code, and coverage on days whose labels are known."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from benchmarks.evidence import estimates
from cluster.errors import DataError
from cluster.values import Task
from features.definitions import Column
from monitoring.drift_policy import DAY_S
from monitoring.performance.cbpe import at_prior, estimate_prior
from monitoring.performance.estimate_intervals import IntervalEstimator, Spread
from monitoring.performance.estimator import PerformanceEstimator
from monitoring.performance.loss_bounds import MIN_WINDOWS
from monitoring.samples.logged_rows import LoggedRows
from tests.factories.errors import raises

BINARY = Task(kind="binary", label="late")
ROWS = 50
RATES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def days(rates: tuple[float, ...], first: int = 0, score: float = 0.5) -> LoggedRows:
    """Days of ROWS rows with one score, of which a share is positive."""
    labels = np.concatenate([np.arange(ROWS) < round(rate * ROWS) for rate in rates]).astype(float)
    n = len(labels)
    times = np.repeat((first + np.arange(len(rates))) * DAY_S, ROWS)
    return LoggedRows(pa.table({"a": np.zeros(n)}), np.arange(n).astype(str), times, np.full(n, score), labels)


def interval_estimator(rates: tuple[float, ...] = RATES) -> IntervalEstimator:
    held_out = days(rates)
    return IntervalEstimator(PerformanceEstimator(BINARY, held_out, ()), held_out, DAY_S, ROWS)


def test_interval_covers_every_methods_center_by_students_t():
    interval = Spread(centers=(0.3, 0.2), deviations=(0.01, 0.02), freedom=9.0).interval(0.05)
    reach = stats.t.isf(0.025, 9)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.3, 0.2 - 0.02 * reach, 0.3 + 0.01 * reach))


def test_deviation_has_the_parts_of_windows_and_of_learning_by_hand():
    # With one score, the estimate of a day is the rate of the other days, and so is each fold.
    others = np.array([np.mean([r for r in RATES if r != rate]) for rate in RATES])
    windows = np.mean((np.array(RATES) - others) ** 2) * (1 + 1 / 6)
    learning = 5 / 6 * np.square(others - others.mean()).sum()
    labels = np.mean(others * (1 - others)) / ROWS
    more = 0.45 * 0.55 / 10 - labels
    spread = interval_estimator().spreads(days((0.4,), 100).select(np.arange(10)))["accuracy"]
    assert spread.centers[0] == pytest.approx(0.45)
    assert spread.deviations[0] == pytest.approx(np.sqrt(windows + learning + more))
    assert spread.freedom == 5.0
    many = interval_estimator().spreads(days((0.4, 0.4, 0.4), 100))["accuracy"]
    assert many.deviations[0] == pytest.approx(np.sqrt(windows + learning))


def test_usual_estimates_have_students_limits_by_hand():
    others = np.array([np.mean([r for r in RATES if r != rate]) for rate in RATES])
    reach = stats.t.isf(0.01, 5) * others.std(ddof=1) * np.sqrt(7 / 6)
    mean, low, high = interval_estimator().usual("accuracy", 0.01)
    assert (mean, low, high) == pytest.approx((0.45, 0.45 - reach, 0.45 + reach))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.85])
def test_prior_is_found_where_scores_given_labels_are_known(share):
    # Of positives four fifths have 0.8, of negatives one fifth.
    high = round(1000 * (0.8 * share + 0.2 * (1 - share)))
    chances = np.repeat([0.8, 0.2], [high, 1000 - high])
    assert estimate_prior(chances, 0.5) == pytest.approx(share, abs=1e-5)
    assert at_prior(np.array([0.8]), 0.5, share)[0] == pytest.approx(0.8 * share / (0.8 * share + 0.2 * (1 - share)))
    assert at_prior(chances, 0.3, 0.3) == pytest.approx(chances)


def test_prior_of_equal_scores_is_that_of_the_reference():
    assert estimate_prior(np.full(100, 0.4), 0.3) == 0.3


def test_prior_shift_is_left_out_where_scores_tell_too_little_of_it():
    rng = np.random.default_rng(0)
    intervals = []
    for slope in (3.0, 0.1):
        x = rng.normal(size=6 * 200)
        chances = 1 / (1 + np.exp(-slope * x))
        times = np.repeat(np.arange(6) * DAY_S, 200)
        labels = (rng.random(len(x)) < chances).astype(float)
        rows = LoggedRows(pa.table({"a": x}), np.arange(len(x)).astype(str), times, chances, labels)
        intervals.append(IntervalEstimator(PerformanceEstimator(BINARY, rows, ()), rows, DAY_S, 200))
    live = rows.select(np.arange(200))
    assert [len(each.spreads(live)["brier"].centers) for each in intervals] == [2, 1]


def test_too_few_windows_are_refused():
    assert interval_estimator(RATES[:MIN_WINDOWS]).estimates["accuracy"].size == MIN_WINDOWS
    with raises(DataError, "data.too_few_windows", windows=MIN_WINDOWS - 1, minimum=MIN_WINDOWS):
        interval_estimator(RATES[: MIN_WINDOWS - 1])


def test_labels_of_earlier_windows_contradict_only_beyond_what_is_expected():
    intervals = interval_estimator((0.4, 0.42, 0.44, 0.46, 0.48, 0.5))
    assert intervals.contradiction([days((0.44,), 100)], ROWS) is None
    refused = intervals.contradiction([days((0.44,), 100), days((1.0,), 101)], ROWS)
    assert refused is not None
    assert (refused.code, refused.fields["metric"], refused.fields["labels"]) == (
        "data.estimate_contradicted",
        "accuracy",
        ROWS,
    )
    # One label fewer than are needed.
    assert intervals.contradiction([days((1.0,), 101)], ROWS + 1) is None


def test_window_outside_the_reference_is_refused_and_one_inside_is_not():
    rng = np.random.default_rng(0)
    intervals = estimates.reference(rng, estimates.TASKS[0])
    inside = estimates.day(rng, estimates.TASKS[0], 40, 400, "covariate", 0.5)
    assert intervals.spreads(inside, intervals.whole.adapt(inside, 3_000))["brier"].freedom == 29.0
    outside = estimates.day(rng, estimates.TASKS[0], 41, 400, "outside", 4.0)
    with raises(DataError, "data.estimate_outside_reference"):
        intervals.spreads(outside, intervals.whole.adapt(outside, 3_000))


def test_window_without_features_has_no_check_of_support():
    held_out = days(RATES)
    estimator = PerformanceEstimator(BINARY, held_out, (Column(name="image", kind="tensor", shape=(2,)),))
    assert estimator.adapt(days((0.4,), 100), 1_000) is None


@pytest.mark.long
@pytest.mark.parametrize(("kind", "size"), [("none", 0.0), ("covariate", 0.5), ("covariate", 1.0), ("prior", 0.1)])
def test_intervals_cover_what_labels_show(kind, size):
    outcomes = estimates.coverage(estimates.TASKS[0], kind, size, streams=10, days=4)
    hits = sum(outcome.covered or bool(outcome.code) for outcome in outcomes)
    # At a coverage of 95 %, fewer are seen once in 1,000 times.
    assert hits >= stats.binom.ppf(0.001, len(outcomes), 0.95)
