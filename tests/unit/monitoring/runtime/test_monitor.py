"""The monitor without Ray: closing windows, acting, and rejecting damaged profiles."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cluster.errors import DataError, ProjectError
from cluster.values import Alarm
from features.definitions import Column
from features.profiles.profile import Profile
from monitoring.detection.windows import MAX_VERSIONS, MAX_WINDOWS
from monitoring.drift_policy import DriftPolicy
from monitoring.export.prometheus import PrometheusExporter
from monitoring.runtime.monitor import DriftMonitor
from monitoring.runtime.state_store import STATE, UNREADABLE, MonitorStore
from monitoring.statistics.drift_reference import MonitoredColumn
from tests.factories.errors import raises
from tests.factories.monitoring import streams

DAY_S = streams.DAY_S
POLICY = DriftPolicy(span=1, min_rows=100, watch=(MonitoredColumn(column="x", direction="up"),))
REFERENCE = streams.reference(0).to_bytes()


class Recorder:
    """An action that records its alarms, and fails on demand."""

    def __init__(self, error: Exception | None = None) -> None:
        self.alarms: list[Alarm] = []
        self.error = error

    def __call__(self, alarm: Alarm) -> str:
        self.alarms.append(alarm)
        if self.error is not None:
            raise self.error
        return f"job-{len(self.alarms)}"


@pytest.fixture
def store(tmp_path):
    return MonitorStore(tmp_path / "monitor")


def monitor(store: MonitorStore, handler: Recorder | None = None, policy: DriftPolicy = POLICY) -> DriftMonitor:
    watching = DriftMonitor("m", store, {"retrain": handler} if handler else None)
    watching.watch("1", REFERENCE, policy)
    return watching


def send(to: DriftMonitor, windows: dict[float, Profile], version: str = "1") -> None:
    for start in sorted(windows):
        to.observe(version, start, windows[start].to_bytes())


def quiet(days: int, first: int = 100, count: int = 300) -> dict[float, Profile]:
    return streams.windows(first, days, count, first=first)


def moved(days: int, first: int, count: int = 300) -> dict[float, Profile]:
    return streams.windows(first, days, count, first=first, shift=2.0)


def test_window_closes_when_a_later_one_has_enough_rows(store):
    watching = monitor(store)
    send(watching, quiet(1))
    assert watching.history() == []
    send(watching, quiet(1, first=101, count=99))
    assert watching.history() == []
    send(watching, quiet(1, first=101, count=1))
    (closed,) = watching.history()
    assert (closed.window, closed.rows, closed.judged) == (100 * DAY_S, 300, True)


def test_close_closes_windows_without_later_ones(store):
    watching = monitor(store)
    send(watching, quiet(3))
    assert watching.close(103 * DAY_S - 1) == 0
    assert watching.close(103 * DAY_S) == 1
    assert [result.window / DAY_S for result in watching.history()] == [100, 101, 102]


def test_windows_by_count_merge_until_they_are_full(store):
    policy = POLICY.model_copy(update={"window_rows": 700})
    act = Recorder()
    watching = monitor(store, act, policy)
    send(watching, quiet(6) | moved(7, first=106))
    windows = [(r.window / DAY_S, r.rows, r.judged) for r in watching.history()]
    assert windows[:3] == [(100, 300, False), (101, 600, False), (102, 900, True)]
    judged = [r for r in watching.history() if r.judged]
    # Each row is in one run: three days each, of the fourth one is still open.
    assert [(r.since / DAY_S, r.window / DAY_S) for r in judged] == [(100, 102), (103, 105), (106, 108), (109, 111)]
    assert [r.drifted for r in judged] == [(), (), ("x",), ("x",)]
    assert [alarm.window / DAY_S for alarm in act.alarms] == [108]
    assert watching.history()[0].note == "300 of 700 rows so far"


def test_runs_by_count_survive_a_kill(store):
    policy = POLICY.model_copy(update={"window_rows": 700})
    send(monitor(store, policy=policy), quiet(3))
    after = DriftMonitor("m", store)
    send(after, quiet(1, first=103))
    assert [(r.window / DAY_S, r.rows) for r in after.history() if r.judged] == [(102, 900)]


def test_lateness_keeps_windows_open_longer(store):
    watching = monitor(store, policy=POLICY.model_copy(update={"lateness_s": DAY_S}))
    send(watching, quiet(3))
    assert [result.window / DAY_S for result in watching.history()] == [100]


def test_alarm_is_journaled_and_acted_on_once(store):
    act = Recorder()
    watching = monitor(store, act)
    send(watching, quiet(3) | moved(4, first=103))
    assert [alarm.window / DAY_S for alarm in act.alarms] == [103]
    (entry,) = watching.journal()
    assert (entry.action, entry.outcome, entry.failed) == ("retrain", "job-1", False)
    assert watching.status()["drifting"] is True


def test_failed_action_is_journaled(store):
    watching = monitor(store, Recorder(ConnectionError("no cluster")))
    send(watching, moved(3, first=100))
    (entry,) = watching.journal()
    assert (entry.failed, entry.outcome) == (True, "ConnectionError: no cluster")
    send(watching, quiet(2, first=103))
    assert len(watching.history()) == 4


def test_notify_and_cool_down_do_not_act(store):
    act = Recorder()
    policy = POLICY.model_copy(update={"release": 1, "cooldown_s": 30 * DAY_S})
    watching = monitor(store, act, policy)
    send(watching, moved(2, first=100) | quiet(2, first=102) | moved(2, first=104))
    assert [entry.action for entry in watching.journal()] == ["retrain", "held"]
    assert watching.journal()[1].outcome.startswith("cooling down until")
    watching.watch("2", REFERENCE, POLICY.model_copy(update={"action": "notify"}))
    send(watching, moved(2, first=110), "2")
    assert watching.journal()[2].action == "notify"
    assert len(act.alarms) == 1


def test_action_that_was_held_is_taken_once_it_may_while_drift_goes_on(store):
    act = Recorder()
    watching = monitor(store, act, POLICY.model_copy(update={"release": 1, "cooldown_s": 5 * DAY_S}))
    send(watching, moved(2, first=100) | quiet(2, first=102) | moved(2, first=104))
    assert [entry.action for entry in watching.journal()] == ["retrain", "held"]
    send(watching, moved(3, first=106))
    assert [entry.action for entry in watching.journal()] == ["retrain", "held", "retrain"]
    assert watching.journal()[1].alarm == watching.journal()[2].alarm == act.alarms[1]
    send(watching, moved(3, first=109))
    assert len(act.alarms) == 2


def test_held_action_is_not_taken_after_drift_has_ended(store):
    act = Recorder()
    watching = monitor(store, act, POLICY.model_copy(update={"release": 1, "cooldown_s": 5 * DAY_S}))
    send(watching, moved(2, first=100) | quiet(2, first=102) | moved(1, first=104) | quiet(5, first=105))
    assert [entry.action for entry in watching.journal()] == ["retrain", "held"]


def test_promotion_restarts_with_the_new_reference(store):
    watching = monitor(store)
    send(watching, moved(2, first=100))
    send(watching, moved(3, first=100), "2")
    assert watching.status()["drifting"] is True
    shifted = streams.reference(5, shift=2.0).to_bytes()
    watching.watch("2", shifted, POLICY)
    assert watching.status()["drifting"] is False
    assert [r.version for r in watching.history()] == ["1", "2", "2"]
    assert not any(r.drifted for r in watching.history() if r.version == "2")
    assert list(watching.status()["open_windows"]) == ["2"]


def test_watching_the_same_again_keeps_the_state(store):
    watching = monitor(store)
    send(watching, moved(2, first=100))
    watching.watch("1", REFERENCE, POLICY)
    assert watching.status()["drifting"] is True


def test_cooldown_outlives_a_promotion(store):
    act = Recorder()
    watching = monitor(store, act, POLICY.model_copy(update={"cooldown_s": 30 * DAY_S}))
    send(watching, moved(2, first=100))
    watching.watch("2", REFERENCE, POLICY.model_copy(update={"cooldown_s": 30 * DAY_S}))
    send(watching, moved(2, first=105), "2")
    assert [entry.action for entry in watching.journal()] == ["retrain", "held"]


@pytest.mark.parametrize(
    ("start", "data"),
    [
        (100 * DAY_S, b"\x00garbage"),
        (100 * DAY_S, b'{"schema_version": 2}'),
        (math.nan, streams.profile(streams.rows(np.random.default_rng(0), 9)).to_bytes()),
        (math.inf, Profile.empty(streams.COLUMNS).to_bytes()),
        (-1e12, Profile.empty(streams.COLUMNS).to_bytes()),
        pytest.param(time.time() + 10 * DAY_S, Profile.empty(streams.COLUMNS).to_bytes(), id="in the future"),
        (100 * DAY_S, Profile.empty((Column(name="other", kind="number"),)).to_bytes()),
        (100 * DAY_S, Profile.empty((Column(name="x", kind="category"),)).to_bytes()),
        ("soon", Profile.empty(streams.COLUMNS).to_bytes()),
        (100 * DAY_S, None),
    ],
)
def test_damaged_profile_is_counted_and_changes_nothing(store, start, data):
    watching = monitor(store)
    watching.observe("1", start, data)
    assert watching.status()["counters"]["rejected"] == 1
    assert watching.status()["last_error"]
    send(watching, quiet(2))
    assert len(watching.history()) == 1
    assert watching.history()[0].rows == 300


def test_rows_of_a_rejected_profile_are_counted_unless_it_is_unreadable(store):
    watching = monitor(store)
    watching.observe("1", math.nan, streams.profile(streams.rows(np.random.default_rng(0), 9)).to_bytes())
    watching.observe("1", 100 * DAY_S, b"\x00garbage")
    assert watching.status()["rows_since_start"] == 9


def test_profile_with_other_columns_counts_for_shared_ones(store):
    watching = monitor(store)
    extra = (*streams.COLUMNS[:1], Column(name="else", kind="number"))
    for start, profile in moved(3, first=100).items():
        watching.observe("1", start, profile.select_columns(extra).to_bytes())
    assert watching.history()[0].drifted == ("x",)
    assert watching.history()[0].columns["score"].ratio == 0


def test_memory_is_bounded_in_versions_and_windows(store):
    watching = monitor(store)
    tiny = quiet(1, count=1)[100 * DAY_S].to_bytes()
    for i in range(MAX_WINDOWS + 20):
        watching.observe("1", i * DAY_S, tiny)
    for i in range(MAX_VERSIONS + 5):
        watching.observe(f"other {i}", 0.0, tiny)
    open_windows = watching.status()["open_windows"]
    assert len(open_windows) == MAX_VERSIONS
    assert len(open_windows["1"]) == MAX_WINDOWS


def test_kept_windows_do_not_grow_with_the_columns(store, monkeypatch):
    monkeypatch.setattr("monitoring.detection.drift_tracker.MAX_CELLS", 3 * 12)
    watching = monitor(store)
    send(watching, quiet(20))
    assert [r.window / DAY_S for r in watching.history()] == list(range(107, 119))


def test_closed_windows_are_rejected_and_small_ones_skipped(store):
    watching = monitor(store)
    send(watching, quiet(1, first=100, count=5) | quiet(2, first=101))
    assert [(r.window / DAY_S, r.judged) for r in watching.history()] == [(100, False), (101, True)]
    send(watching, quiet(1, first=99))
    assert watching.status()["counters"]["rejected"] == 1


def test_monitor_resumes_from_its_files(store):
    before = monitor(store, Recorder())
    send(before, quiet(3) | moved(2, first=103))
    after = DriftMonitor("m", store, {"retrain": (act := Recorder())})
    assert after.history() == before.history()
    assert after.journal() == before.journal()
    before_counts, after_counts = before.status()["counters"], after.status()["counters"]
    assert after_counts == before_counts
    send(after, moved(1, first=105))
    assert len(after.history()) == len(before.history()) + 1
    assert act.alarms == []


def test_interrupted_action_is_repeated(store):
    class Killed(BaseException):
        pass

    cut = monitor(store, Recorder(Killed()))
    with pytest.raises(Killed):
        send(cut, moved(2, first=100))
    resumed = DriftMonitor("m", store, {"retrain": (act := Recorder())})
    assert len(act.alarms) == 1
    assert resumed.journal()[0].outcome == "job-1"


def test_damaged_state_is_set_aside(store):
    monitor(store)
    (Path(store.path) / STATE).write_bytes(b"{ half")
    after = DriftMonitor("m", store)
    assert after.status()["counters"]["failures"] == 1
    assert (Path(store.path) / UNREADABLE).exists()
    after.watch("1", REFERENCE, POLICY)
    send(after, quiet(2))
    assert len(after.history()) == 1


def test_bad_reference_or_policy_is_refused_and_changes_nothing(store):
    watching = monitor(store)
    with raises(DataError, "data.invalid_profile"):
        watching.watch("2", b"no", POLICY)
    with raises(DataError, "data.window_mismatch", reference_s=86_400, policy_s=60):
        watching.watch("2", REFERENCE, DriftPolicy(window_s=60))
    with raises(ProjectError, "project.unknown_monitored_column", column="nothing"):
        watching.watch("2", REFERENCE, DriftPolicy(watch=(MonitoredColumn(column="nothing"),)))
    assert watching.status()["version"] == "1"


def test_prometheus_text_parses_and_has_the_newest_window(store):
    exporter = PrometheusExporter()
    watching = DriftMonitor("m", store, exporters=(exporter,))
    watching.watch("1", REFERENCE, POLICY)
    send(watching, quiet(2) | moved(2, first=102))
    watching.observe("1", 0.0, b"poison")
    exposition = generate_latest(exporter.registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(exposition)}
    ratios = {s.labels["column"]: s.value for s in families["rayloop_drift_ratio"].samples}
    assert set(ratios) == {"x", "score", "c"}
    assert ratios["x"] > 1
    (rows,) = families["rayloop_drift_window_rows"].samples
    assert (rows.labels, rows.value) == ({"model": "m", "version": "1"}, 300)
    totals = {s.name: s.value for f in families.values() for s in f.samples if s.name.endswith("_total")}
    assert totals["rayloop_drift_windows_total"] == 3
    assert totals["rayloop_drift_alarms_total"] == 1
    assert totals["rayloop_drift_rejected_profiles_total"] == 1


def test_status_shows_the_newest_window(store):
    watching = monitor(store)
    assert watching.status()["last_window"] is None
    send(watching, quiet(3))
    assert watching.status()["last_window"]["window"] == 101 * DAY_S


def test_episode_outlives_a_restart(store):
    act = Recorder()
    send(monitor(store, act, POLICY.model_copy(update={"cooldown_s": 0.0})), moved(3, first=100))
    resumed = DriftMonitor("m", store, {"retrain": act})
    assert resumed.status()["drifting"] is True
    send(resumed, moved(2, first=103))
    assert [alarm.window / DAY_S for alarm in act.alarms] == [100]
