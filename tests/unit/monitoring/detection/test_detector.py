"""The detector: at which window it raises an alarm, that it raises one per episode, and how often it may act."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import ProjectError
from features.profiles.profile import Profile
from features.profiles.reference_profile import ReferenceProfile
from monitoring.detection.alarm_actions import ActionRecord, record_action, suppression_reason
from monitoring.detection.detector import DetectorState, DriftDetector, WindowResult, evaluate_run, skipped_window
from monitoring.drift_policy import DAY_S, DriftPolicy
from monitoring.statistics.drift_reference import DriftReference, MonitoredColumn
from tests.factories.errors import raises
from tests.factories.monitoring import streams

WATCH = (MonitoredColumn(column="x", direction="up"), MonitoredColumn(column="score", direction="up"))


def results(
    policy: DriftPolicy,
    windows: dict[float, Profile],
    drift_reference: DriftReference | None = None,
    reference_seed: int = 0,
) -> list[WindowResult]:
    drift_reference = drift_reference or DriftReference(streams.reference(reference_seed), policy.span, policy.watch)
    starts, window_results = sorted(windows), []
    for i in range(len(starts)):
        run_starts = tuple(starts[max(0, i - policy.span + 1) : i + 1])
        run = Profile.empty(streams.COLUMNS)
        for start in run_starts:
            run.merge(windows[start])
        window_results.append(evaluate_run(drift_reference, policy, "1", run_starts, run))
    return window_results


def fired(policy: DriftPolicy, window_results: list[WindowResult]) -> list[int]:
    detector = DriftDetector("m", "1", policy)
    return [i for i, result in enumerate(window_results) if detector.update(result) is not None]


def stream(quiet: int, moved: int, then: int = 0, seed: int = 42) -> dict[float, Profile]:
    parts = streams.windows(seed, quiet, 300, first=100)
    parts |= streams.windows(seed + 1, moved, 300, first=100 + quiet, shift=2.0)
    return parts | streams.windows(seed + 2, then, 300, first=100 + quiet + moved)


@pytest.mark.parametrize(
    ("span", "needed", "of", "index"), [(1, 1, 1, 20), (3, 1, 1, 20), (3, 3, 4, 22), (1, 2, 3, 21)]
)
def test_seeded_stream_raises_an_alarm_at_a_known_window(span, needed, of, index):
    policy = DriftPolicy(span=span, needed=needed, of=of, watch=WATCH, release=8)
    assert fired(policy, results(policy, stream(20, 8))) == [index]


@pytest.mark.long
def test_quiet_streams_keep_the_rate_of_false_alarms():
    policy = DriftPolicy(span=3, alpha=0.02, effect=0.0, watch=WATCH, release=1)
    alarms = windows = 0
    for seed in range(15):
        window_results = results(policy, streams.windows(900 + seed, 60, 300, first=100), reference_seed=seed)
        alarms += len(fired(policy, window_results))
        windows += sum(result.judged for result in window_results)
    # Neighboring runs share windows, so that false alarms cluster: four standard deviations, not three.
    assert alarms / windows <= policy.alpha + 4 * (policy.alpha / windows) ** 0.5


@pytest.mark.long
def test_training_rows_in_random_windows_raise_no_alarm():
    rng = np.random.default_rng(17)
    days = [streams.rows(rng, 300) for _ in range(100)]
    reference = ReferenceProfile.build({i * DAY_S: streams.profile(day) for i, day in enumerate(days)}, DAY_S)
    rows = pa.concat_tables(days)
    parts = np.array_split(rng.permutation(rows.num_rows), 100)
    replay = {i * DAY_S: streams.profile(rows.take(pa.array(part))) for i, part in enumerate(parts)}
    for span, watch in ((1, ()), (3, ()), (3, WATCH)):
        policy = DriftPolicy(span=span, watch=watch)
        assert fired(policy, results(policy, replay, DriftReference(reference, span, watch))) == []


def test_detector_raises_the_next_alarm_only_after_quiet_windows():
    policy = DriftPolicy(span=1, release=3, watch=WATCH)
    two_episodes = stream(10, 4, 5)
    two_episodes |= streams.windows(7, 4, 300, first=119, shift=2.0)
    assert fired(policy, results(policy, two_episodes)) == [10, 19]
    short_lull = stream(10, 4, 2)
    short_lull |= streams.windows(7, 4, 300, first=116, shift=2.0)
    assert fired(policy, results(policy, short_lull)) == [10]


def test_detector_continues_from_its_saved_state():
    policy = DriftPolicy(span=1, needed=3, of=5, watch=WATCH)
    window_results = results(policy, stream(10, 8))
    whole, state, restarted = fired(policy, window_results), DetectorState(), []
    for i, result in enumerate(window_results):
        detector = DriftDetector("m", "1", policy, DetectorState.model_validate_json(state.model_dump_json()))
        if detector.update(result) is not None:
            restarted.append(i)
        state = detector.state
    assert restarted == whole == [12]


def test_alarm_contains_its_evidence():
    policy = DriftPolicy(span=3, watch=WATCH, false_alarms=1.0)
    detector = DriftDetector("m", "7", policy)
    alarms = [alarm for result in results(policy, stream(10, 6)) if (alarm := detector.update(result))]
    (alarm,) = alarms
    assert alarm.model == "m"
    assert alarm.version == "7"
    assert alarm.window == 110 * DAY_S
    assert (alarm.level, alarm.monthly) == pytest.approx((4 / 9 / 30, 4 / 9))
    assert set(alarm.features) == {"x", "score"}
    assert max(alarm.features.values()) >= 1
    assert "1970-04-19 to 1970-04-21, 900 rows: " in alarm.reason
    assert "x its threshold (" in alarm.reason
    assert "in training" in alarm.reason


def test_unwatched_columns_are_measured_and_raise_no_alarm():
    policy = DriftPolicy(span=1, watch=(MonitoredColumn(column="c"),))
    window_results = results(policy, stream(0, 4))
    assert all(result.columns["x"].ratio > 1 and not result.columns["x"].watched for result in window_results)
    assert not any(result.drifted for result in window_results)


def test_run_with_too_few_windows_is_skipped():
    policy = DriftPolicy(span=3, watch=WATCH)
    window_results = results(policy, stream(0, 4))
    assert [result.judged for result in window_results] == [False, False, True, True]
    assert window_results[0].note == "1 of 3 windows so far"


def test_watched_column_without_traffic_is_noted():
    policy = DriftPolicy(span=1, watch=WATCH)
    bare = Profile.empty(streams.COLUMNS)
    bare.update(streams.rows(np.random.default_rng(0), 300).select(["x"]))
    drift_reference = DriftReference(streams.reference(), 1, policy.watch)
    assert "score" in evaluate_run(drift_reference, policy, "1", (0.0,), bare).note


def test_skipped_window_changes_nothing():
    policy = DriftPolicy(span=1, watch=WATCH)
    detector = DriftDetector("m", "1", policy)
    before = detector.state
    assert detector.update(skipped_window("1", (0.0,), 3, "3 rows")) is None
    assert detector.state == before


def test_suppression_reason_follows_cooldown_and_budget():
    policy = DriftPolicy(cooldown_s=2 * DAY_S, budget=2, budget_s=10 * DAY_S)
    past: tuple[ActionRecord, ...] = ()

    def claim(action, days):
        nonlocal past
        reason = suppression_reason(policy, past, action, days * DAY_S)
        past = past if reason else record_action(policy, past, action, days * DAY_S)
        return reason

    assert claim("retrain", 0) == ""
    assert claim("retrain", 1) == "cooling down until 1970-01-03"
    assert claim("rollback", 1) == "cooling down until 1970-01-03"
    assert claim("retrain", 2) == ""
    assert claim("retrain", 5) == "budget of 2 retrains per 10 days is spent"
    assert claim("rollback", 6) == ""
    assert claim("retrain", 7) == "cooling down until 1970-01-09"
    assert claim("retrain", 10) == ""


def test_policy_with_impossible_persistence_is_refused():
    with raises(ProjectError, "project.impossible_persistence", needed=3, of=2):
        DriftPolicy(needed=3, of=2)
