"""Thresholds: false alarms stay at the requested rate, real changes are detected."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ProjectError
from features.profiles.profile import Profile
from monitoring.detection.detector import evaluate_run
from monitoring.drift_policy import DriftPolicy
from monitoring.statistics.drift_reference import (
    DriftReference,
    MonitoredColumn,
    count_discoveries,
    find_run_ends,
    sum_runs,
)
from monitoring.statistics.null_distributions import MIN_RUNS, DistanceNull
from tests.factories.errors import raises
from tests.factories.monitoring import streams

ALPHA = 0.05


def flagged(drift_reference: DriftReference, policy: DriftPolicy, windows: dict[float, Profile]) -> list[bool]:
    """Whether each run of windows drifts."""
    starts = sorted(windows)
    flags = []
    for i in range(policy.span - 1, len(starts)):
        run_starts = tuple(starts[i - policy.span + 1 : i + 1])
        run = Profile.empty(streams.COLUMNS)
        for start in run_starts:
            run.merge(windows[start])
        flags.append(bool(evaluate_run(drift_reference, policy, "1", run_starts, run).drifted))
    return flags


@pytest.mark.parametrize(("span", "runs"), [(1, 5), (2, 4), (5, 1), (6, 0)])
def test_reference_has_a_run_for_each_window_that_has_enough_before_it(span: int, runs: int) -> None:
    assert DriftReference(streams.reference(days=5, count=50), span, ()).runs == runs


@pytest.mark.long
@pytest.mark.parametrize(("count", "day_sd"), [(60, 0.0), (60, 0.3), (300, 0.3), (900, 0.3)])
def test_thresholds_keep_the_rate_of_false_alarms_at_any_window_size(count, day_sd):
    policy = DriftPolicy(span=1, alpha=ALPHA, effect=0.0, min_rows=1)
    flags = []
    for seed in range(8):
        drift_reference = DriftReference(streams.reference(seed, days=80, day_sd=day_sd), 1, ())
        live = streams.windows(1000 + seed, days=60, count=count, first=80, day_sd=day_sd)
        flags += flagged(drift_reference, policy, live)
    # 480 windows; three standard deviations of the count above the requested rate.
    slack = 3 * np.sqrt(ALPHA * (1 - ALPHA) / len(flags))
    assert np.mean(flags) <= ALPHA + slack


@pytest.mark.parametrize(("shift", "least"), [(0.5, 0.3), (1.0, 0.9)])
def test_real_changes_are_detected(shift, least):
    policy = DriftPolicy(span=1, alpha=ALPHA, effect=0.1, min_rows=1)
    drift_reference = DriftReference(streams.reference(3), 1, ())
    live = streams.windows(77, days=50, count=300, first=100, shift=shift)
    assert np.mean(flagged(drift_reference, policy, live)) >= least


def test_significant_change_below_the_effect_raises_no_alarm():
    drift_reference = DriftReference(streams.reference(4, days=40, count=2000, day_sd=0.0), 1, ())
    live = streams.windows(5, days=10, count=5000, first=40, day_sd=0.0, shift=0.15)
    assert all(flagged(drift_reference, DriftPolicy(span=1, effect=0.0), live))
    assert not any(flagged(drift_reference, DriftPolicy(span=1, effect=0.15), live))


def test_direction_ignores_the_other_one():
    reference = streams.reference(6)
    down = streams.windows(8, days=10, count=300, first=100, shift=-2.0)
    policy = DriftPolicy(span=1, watch=(MonitoredColumn(column="x", direction="up"),))
    assert not any(flagged(DriftReference(reference, 1, policy.watch), policy, down))
    policy = DriftPolicy(span=1, watch=(MonitoredColumn(column="x", direction="down"),))
    assert all(flagged(DriftReference(reference, 1, policy.watch), policy, down))


def test_few_reference_windows_leave_sampling_noise_as_the_null():
    reference = streams.reference(9, days=2, count=2000, day_sd=0.0)
    drift_reference = DriftReference(reference, 1, ())
    assert drift_reference.runs < MIN_RUNS
    policy = DriftPolicy(span=1, alpha=ALPHA)
    quiet = streams.windows(10, days=50, count=300, first=2, day_sd=0.0)
    moved = streams.windows(11, days=20, count=300, first=2, day_sd=0.0, shift=1.0)
    assert np.mean(flagged(drift_reference, policy, quiet)) <= ALPHA
    assert all(flagged(drift_reference, policy, moved))


def test_count_discoveries_matches_a_worked_example():
    p_values = dict(enumerate((0.01, 0.04, 0.03, 0.005, 0.2)))
    assert count_discoveries({str(k): v for k, v in p_values.items()}, 0.05) == 4
    assert count_discoveries({"a": 0.06, "b": 0.9}, 0.05) == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.2))
def test_count_discoveries_is_between_bonferroni_and_no_correction(values, alpha):
    p_values = {str(i): p for i, p in enumerate(values)}
    count = count_discoveries(p_values, alpha)
    assert count >= sum(p <= alpha / len(values) for p in values)
    assert count <= sum(p <= alpha for p in values)


@given(
    st.lists(st.floats(0, 0.9), min_size=MIN_RUNS, max_size=60),
    st.integers(10, 5000),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0.001, 0.2),
)
def test_p_values_fall_with_distance_and_thresholds_invert_them(ordinary, rows, low, high, alpha):
    null = DistanceNull(np.array(ordinary), np.full(len(ordinary), 900), np.empty(0), "up")
    low, high = sorted((low, high))
    assert null.p_value(high, rows, 100_000) <= null.p_value(low, rows, 100_000) + 1e-12
    threshold = null.threshold(alpha, rows, 100_000)
    if threshold < 1 - 1e-6:
        assert null.p_value(threshold + 1e-9, rows, 100_000) <= alpha
        assert null.p_value(threshold - 1e-6, rows, 100_000) > alpha * (1 - 1e-3)


@given(st.integers(1, 6), st.integers(0, 9))
def test_sum_runs_sums_successive_windows(span, windows):
    cells = np.arange(windows * 3).reshape(windows, 3)
    expected = [cells[i : i + span].sum(axis=0) for i in range(windows - span + 1)]
    assert sum_runs(cells, span).tolist() == [list(x) for x in expected]


def test_runs_by_count_have_enough_rows_and_do_not_overlap():
    reference = streams.reference(0, days=40, count=300)
    drift_reference = DriftReference(reference, 1, (), window_rows=1_000)
    runs = drift_reference.run_cells("x")
    assert drift_reference.runs == len(runs) == 10
    assert (runs.sum(axis=1) == 1_200).all()
    assert runs.sum(axis=0).tolist() == reference.cells["x"].sum(axis=0).tolist()
    too_few_rows = DriftReference(reference, 1, (), window_rows=10**9)
    assert too_few_rows.run_cells("c").shape == (0, reference.cells["c"].shape[1])


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 100))
def test_find_run_ends_finds_the_shortest_full_runs(rows, window_rows):
    ends = find_run_ends(np.array(rows, np.int64), window_rows)
    for start, end in zip([0, *ends], ends, strict=False):
        assert sum(rows[start:end]) >= window_rows > sum(rows[start : end - 1])
    assert sum(rows[ends[-1] if ends else 0 :]) < window_rows


@pytest.mark.parametrize(
    ("watch", "code"),
    [
        (MonitoredColumn(column="y"), "project.unknown_monitored_column"),
        (MonitoredColumn(column="c", direction="up"), "project.directed_category"),
    ],
)
def test_drift_reference_refuses_impossible_monitored_columns(watch, code):
    with raises(ProjectError, code, column=watch.column):
        DriftReference(streams.reference(1, days=3, count=20), 1, (watch,))
