"""All statistics of all columns, through the detector: seeded alarms, the rate of false ones, damaged profiles."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from features.definitions import Column
from features.profiles.column_sketches import MAX_CATEGORIES, CategorySummary
from features.profiles.profile import Profile
from features.profiles.reference_profile import Bins, ReferenceProfile
from monitoring.detection.detector import DriftDetector, WindowResult, evaluate_run
from monitoring.drift_policy import DAY_S, DriftPolicy
from monitoring.statistics.column_tests import drop_doubtful_values, p_values
from monitoring.statistics.drift_reference import DriftReference
from tests.factories.monitoring import streams

ALL = DriftPolicy(span=1, test="all", false_alarms=1.0)


def results(policy: DriftPolicy, drift_reference: DriftReference, windows: dict[float, Profile]) -> list[WindowResult]:
    return [evaluate_run(drift_reference, policy, "1", (start,), windows[start]) for start in sorted(windows)]


def test_seeded_stream_raises_an_alarm_at_a_known_window():
    drift_reference = DriftReference(streams.reference(0), 1, ())
    live = streams.windows(42, 12, 300, first=100)
    live |= {(112 + i) * DAY_S: streams.profile(wider(i)) for i in range(6)}
    # Sketches draw at random themselves: at this rate no quiet window is close to an alarm, so that the seed decides.
    rare = ALL.model_copy(update={"false_alarms": 0.01})
    detector = DriftDetector("m", "1", rare)
    fired = [i for i, result in enumerate(results(rare, drift_reference, live)) if detector.update(result)]
    assert fired == [12]


def wider(seed: int) -> pa.Table:
    """x spreads four times as wide and keeps its mean; the others stay."""
    rng = np.random.default_rng(seed)
    frame = streams.rows(rng, 300)
    return frame.set_column(0, "x", pa.array(rng.normal(0, 4, 300)))


def test_reason_names_the_strongest_statistic():
    drift_reference = DriftReference(streams.reference(0), 1, ())
    detector = DriftDetector("m", "1", ALL)
    (result,) = results(ALL, drift_reference, {200 * DAY_S: streams.profile(wider(1))})
    alarm = detector.update(result)
    assert result.drifted == ("x",)
    assert result.columns["x"].ratio >= 1
    assert alarm is not None
    assert f"most in {result.columns['x'].strongest.replace('_', ' ')}" in alarm.reason


@pytest.mark.long
@pytest.mark.parametrize("day_sd", [0.0, 0.3])
def test_tests_keep_the_rate_of_false_alarms(day_sd):
    """3 in 30 days, of which drift gets 4 of 9 parts."""
    policy = ALL.model_copy(update={"false_alarms": 3.0, "effect": 0.0})
    assert policy.level() == pytest.approx(0.4 / 9)
    hits = windows = 0
    for seed in range(2):
        drift_reference = DriftReference(streams.reference(seed, days=40, day_sd=day_sd), 1, ())
        window_results = results(
            policy, drift_reference, streams.windows(500 + seed, 30, 300, first=100, day_sd=day_sd)
        )
        hits += sum(bool(result.drifted) for result in window_results)
        windows += len(window_results)
    assert hits <= stats.binom.ppf(1 - 1e-4, windows, policy.level())


def test_default_policy_tests_only_the_distance():
    policy, drift_reference = DriftPolicy(span=1), DriftReference(streams.reference(1), 1, ())
    (result,) = results(policy, drift_reference, {200 * DAY_S: streams.profile(wider(2))})
    for name, column in result.columns.items():
        distances = column.distances
        null = drift_reference.nulls[name]
        assert column.p_value == null.p_value(distances.statistic, distances.rows, distances.reference_rows)
        assert column.strongest == ""
    assert policy.level() == 0.01


def test_p_values_of_the_same_profile_are_equal():
    drift_reference, live = DriftReference(streams.reference(1), 1, ()), streams.profile(wider(2))
    assert p_values(drift_reference, live) == p_values(drift_reference, Profile.from_bytes(live.to_bytes()))


COLUMNS = (Column(name="x", kind="number"), Column(name="c", kind="category"))


def profile(x: list | np.ndarray, c: list) -> Profile:
    summary = Profile.empty(COLUMNS)
    summary.update(pa.table({"x": x, "c": c}))
    return summary


@pytest.fixture(scope="module")
def calm() -> DriftReference:
    rng = np.random.default_rng(5)
    days = {i * DAY_S: profile(rng.normal(size=300), rng.choice(["a", "b"], 300).tolist()) for i in range(20)}
    return DriftReference(ReferenceProfile.build(days, DAY_S), 1, ())


@pytest.mark.parametrize(
    ("damaged", "column", "strongest"),
    [
        (profile([float("nan")] * 300, ["a", "b"] * 150), "x", "nulls"),
        (profile([float("inf"), -1e200, 1e308] * 100, ["a", "b"] * 150), "x", "invalid"),
        (profile(["text"] * 300, ["a", "b"] * 150), "x", "invalid"),
        (profile([1e99, -1e99, 0.0] * 100, ["a", "b"] * 150), "x", ""),
        (profile(np.zeros(5_000), [f"id-{i}" for i in range(5_000)]), "c", ""),
        (profile([None] * 300, [None] * 300), "c", "nulls"),
    ],
    ids=["nan", "infinite", "mistyped", "huge", "cardinality", "empty"],
)
def test_damaged_profile_raises_an_alarm(calm, damaged, column, strongest):
    live = Profile.from_bytes(damaged.to_bytes())
    live.merge(Profile.empty(COLUMNS))
    result = evaluate_run(calm, ALL, "1", (99 * DAY_S,), live)
    assert column in result.drifted
    assert np.isfinite(result.columns[column].ratio)
    assert not strongest or p_values(calm, live)[column].by_statistic[strongest] < 0.05


def test_values_that_a_summary_dropped_are_not_new():
    """1,025 known values, one too many to count: what was dropped may be any of them."""
    known = CategorySummary()
    known.add({f"v{i}": 10 for i in range(MAX_CATEGORIES)})
    bins, live = Bins.for_category(known), CategorySummary()
    live.add({f"v{i}": 10 for i in range(MAX_CATEGORIES)})
    live.add({"stranger": 11})
    cells = bins.count_category(live)
    assert cells[-3] > 11
    assert drop_doubtful_values(cells, bins, live)[-3] <= 11
    assert drop_doubtful_values(cells, bins, live).sum() == cells.sum()
