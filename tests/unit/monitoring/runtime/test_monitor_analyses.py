"""The monitor with analyses of logged rows and notifications: it acts on them, exports them, and survives failures."""

from __future__ import annotations

import json
import time

import pytest
from prometheus_client import generate_latest

from cluster.values import Usage
from monitoring.analysis.log_analysis import Finding
from monitoring.detection.notifier import SENT, Notifier
from monitoring.drift_policy import DAY_S, DriftPolicy, LogAnalysisPolicy, NotificationTarget
from monitoring.export.cost import ResourcePrices
from monitoring.export.prometheus import PrometheusExporter
from monitoring.runtime.monitor import REPLICA_TIMEOUT_S, DriftMonitor
from monitoring.runtime.state_store import MonitorStore
from tests.factories.deployments.endpoint import Endpoint
from tests.factories.monitoring import streams
from tests.factories.monitoring.analyses import ManualRunner, analysis_result, quality_finding

LOG_ANALYSIS = LogAnalysisPolicy(
    every_s=0, label_wait_s=3 * DAY_S, actions={"quality": "rollback", "multivariate": "retrain"}
)
POLICY = DriftPolicy(span=2, min_rows=100, log_analysis=LOG_ANALYSIS, cooldown_s=0, watch=())
REFERENCE = streams.reference(0).to_bytes()


@pytest.fixture
def store(tmp_path):
    return MonitorStore(tmp_path / "monitor")


@pytest.fixture
def endpoint():
    receiver = Endpoint()
    yield receiver
    receiver.close()


def start_monitor(store, runner, handlers=None, **more) -> DriftMonitor:
    monitor = DriftMonitor("m", store, handlers or {}, runner=runner, **more)
    monitor.watch("1", REFERENCE, POLICY)
    return monitor


def send(to: DriftMonitor, first: int, days: int) -> None:
    for start, profile in streams.windows(first, days, 300, first=first).items():
        to.observe("1", start, profile.to_bytes())


def gauges(exporter: PrometheusExporter, *without: str) -> list[str]:
    """Exported lines, without counters, which restart with a process."""
    lines = generate_latest(exporter.registry).decode().splitlines()
    return [line for line in lines if "_total" not in line and "_created" not in line and not line.startswith(without)]


def test_closed_run_is_analyzed_with_all_windows_that_may_get_labels(store):
    runner = ManualRunner()
    monitor = start_monitor(store, runner)
    send(monitor, 100, 3)
    assert runner.requests[0].windows == (100 * DAY_S, 101 * DAY_S)
    assert (runner.requests[0].since, runner.requests[0].until) == (100 * DAY_S, 102 * DAY_S)
    send(monitor, 103, 4)
    assert len(runner.requests) == 1
    runner.outcome = analysis_result(101 * DAY_S)
    monitor.status()
    # Only the newest run waits; windows in between are analyzed with it while their labels may arrive.
    assert [int(w / DAY_S) for w in runner.requests[1].windows] == [103, 104, 105]


def test_finding_is_journaled_and_acted_on_by_kind(store):
    runner, alarms = ManualRunner(), []
    acts = {"rollback": lambda a: f"back {a.kind}", "retrain": lambda a: alarms.append(a) or "job"}
    monitor = start_monitor(store, runner, acts)
    send(monitor, 100, 3)
    runner.outcome = analysis_result(
        101 * DAY_S,
        quality_finding(101),
        Finding(kind="labels", window=101 * DAY_S, reason="moved"),
        Finding(kind="multivariate", window=101 * DAY_S, reason="apart"),
    )
    kinds = {e.alarm.kind: (e.action, e.outcome) for e in monitor.journal()}
    assert kinds == {
        "quality": ("rollback", "back quality"),
        "labels": ("notify", "journaled"),
        "multivariate": ("retrain", "job"),
    }
    (entry,) = [e for e in monitor.journal() if e.alarm.kind == "quality"]
    assert entry.alarm.features == {"loss": 2.0}
    # Without a budget each kind spends the alpha of the log analysis: 0.3 alarms in 30 one-day windows.
    assert (entry.alarm.level, entry.alarm.monthly) == pytest.approx((0.01, 0.3))
    assert monitor.analyses().quality[0].worse


def test_action_cools_down_for_all_kinds(store):
    runner = ManualRunner()
    monitor = DriftMonitor("m", store, {"rollback": lambda a: "back"}, runner=runner)
    monitor.watch("1", REFERENCE, POLICY.model_copy(update={"cooldown_s": 5 * DAY_S}))
    send(monitor, 100, 3)
    runner.outcome = analysis_result(101 * DAY_S, quality_finding(101), quality_finding(101, "shop = a"))
    assert [e.action for e in monitor.journal()] == ["rollback", "held"]
    assert monitor.journal()[1].outcome.startswith("cooling down until")


def test_failed_analysis_is_counted_and_the_next_window_is_analyzed(store):
    runner = ManualRunner()
    monitor = start_monitor(store, runner)
    send(monitor, 100, 3)
    runner.outcome = "the frame is gone"
    status = monitor.status()
    assert (status["counters"]["failures"], status["last_error"]) == (1, "a log analysis failed: the frame is gone")
    assert status["looking"] is False
    send(monitor, 103, 1)
    assert len(runner.requests) == 2


def test_interrupted_analysis_is_repeated(store):
    send(start_monitor(store, ManualRunner()), 100, 3)
    runner = ManualRunner()
    resumed = DriftMonitor("m", store, runner=runner)
    resumed.status()
    assert [request.window / DAY_S for request in runner.requests] == [101]
    runner.outcome = analysis_result(101 * DAY_S, quality_finding(101))
    assert [e.alarm.kind for e in resumed.journal()] == ["quality"]
    again = DriftMonitor("m", store, runner=ManualRunner())
    assert again.analyses() == resumed.analyses()
    assert again.status()["looking"] is False


def test_finding_is_acted_on_without_traffic(store):
    acted, runner = [], ManualRunner()
    monitor = start_monitor(store, runner, {"rollback": lambda a: acted.append(a.kind) or "back"})
    send(monitor, 100, 3)
    runner.outcome = analysis_result(101 * DAY_S, quality_finding(101))
    monitor.record_usage(Usage(replica="a", cpu_s=1, reserved_cpu_s=5, reserved_gpu_s=0, gib_s=1, requests=0))
    assert acted == ["quality"]


def test_analysis_of_another_version_is_dropped(store):
    runner = ManualRunner()
    monitor = start_monitor(store, runner)
    send(monitor, 100, 3)
    monitor.watch("2", REFERENCE, POLICY)
    runner.outcome = analysis_result(101 * DAY_S, quality_finding(101))
    assert monitor.journal() == []


def test_policy_without_log_analysis_starts_none(store):
    runner = ManualRunner()
    monitor = DriftMonitor("m", store, runner=runner)
    monitor.watch("1", REFERENCE, POLICY.model_copy(update={"log_analysis": None}))
    send(monitor, 100, 4)
    assert runner.requests == []


def test_metrics_of_analysis_and_cost_are_exported(store):
    runner, exporter = ManualRunner(), PrometheusExporter()
    monitor = DriftMonitor(
        "m", store, exporters=(exporter,), runner=runner, prices=ResourcePrices(cpu=1.0, gpu=10.0, gib=0.0)
    )
    monitor.watch("1", REFERENCE, POLICY, {"team": "fares", "purpose": "quotes"})
    send(monitor, 100, 3)
    runner.outcome = analysis_result(101 * DAY_S)
    for replica in ("a", "b"):
        monitor.record_usage(
            Usage(replica=replica, cpu_s=100, reserved_cpu_s=3600, reserved_gpu_s=180, gib_s=9e9, requests=5)
        )
    status = monitor.status()
    assert (status["cost"], status["replicas"], status["used"]["requests"]) == (3.0, 2, 10)
    text = generate_latest(exporter.registry).decode()
    for line in (
        'rayloop_cost{model="m",tag="team",value="fares"} 3.0',
        'rayloop_cost{model="m",tag="",value=""} 3.0',
        'rayloop_cpu_seconds{kind="used",model="m"} 200.0',
        'rayloop_loss_worse{model="m",segment="",version="1"} 1.0',
        'rayloop_estimated{method="CBPE",metric="accuracy",model="m",version="1"} 0.9',
        'rayloop_observed{metric="accuracy",model="m",version="1"} 0.8',
        'rayloop_label_share{model="m",segment="",version="1"} 0.5',
    ):
        assert line in text
    resumed = DriftMonitor("m", store, prices=ResourcePrices(cpu=1.0, gpu=10.0, gib=0.0))
    assert resumed.status()["tags"] == {"team": "fares", "purpose": "quotes"}


def test_resumed_monitor_exports_the_same_metrics(store):
    runner, before, after = ManualRunner(), PrometheusExporter(), PrometheusExporter()
    monitor = DriftMonitor("m", store, exporters=(before,), runner=runner)
    monitor.watch("1", REFERENCE, POLICY)
    send(monitor, 100, 3)
    runner.outcome = analysis_result(101 * DAY_S, quality_finding(101))
    monitor.status()
    DriftMonitor("m", store, exporters=(after,), runner=ManualRunner())
    assert gauges(after, "#") == gauges(before, "#")
    assert 'rayloop_loss_worse{model="m",segment="",version="1"} 1.0' in gauges(after)


def test_metrics_behind_alerts_are_reset_for_another_version(store):
    runner, exporter = ManualRunner(), PrometheusExporter()
    monitor = DriftMonitor("m", store, exporters=(exporter,), runner=runner)
    monitor.watch("1", REFERENCE, POLICY)
    send(monitor, 100, 3)
    runner.outcome = analysis_result(101 * DAY_S, quality_finding(101))
    monitor.status()
    monitor.watch("2", REFERENCE, POLICY)
    standing = [
        line for line in gauges(exporter, "#") if line.startswith(("rayloop_drift_drifting", "rayloop_loss_worse"))
    ]
    assert standing == [
        'rayloop_drift_drifting{model="m",version="2"} 0.0',
        'rayloop_loss_worse{model="m",segment="",version="2"} 0.0',
    ]


def test_silent_replica_is_not_counted(store, monkeypatch):
    monitor = start_monitor(store, ManualRunner())
    monitor.record_usage(Usage(replica="a", cpu_s=1, reserved_cpu_s=1, reserved_gpu_s=0, gib_s=1, requests=1))
    assert monitor.status()["replicas"] == 1
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + REPLICA_TIMEOUT_S + 1.0)
    assert monitor.status()["replicas"] == 0


def test_targets_receive_signed_notifications_and_failures_are_journaled(store, endpoint, monkeypatch):
    monkeypatch.setenv("HOOK", "hush")
    endpoint.answers["/broken"] = 500
    targets = (
        NotificationTarget(url=f"{endpoint.url}/hook", secret_env="HOOK"),
        NotificationTarget(url=endpoint.url, kind="alertmanager"),
        NotificationTarget(url=f"{endpoint.url}/broken"),
    )
    runner, notifier = ManualRunner(), Notifier(pause_s=0.0)
    monitor = DriftMonitor("m", store, runner=runner, sink=notifier)
    monitor.watch("1", REFERENCE, POLICY.model_copy(update={"notify": targets}))
    send(monitor, 100, 3)
    runner.outcome = analysis_result(101 * DAY_S, quality_finding(101))
    monitor.status()
    notifier.close()
    (entry,) = monitor.journal()
    assert list(entry.notices.values()) == [SENT, SENT, "HTTP 500"]
    requests = {path: (headers, json.loads(body)) for path, headers, body in endpoint.requests}
    assert requests["/hook"][0]["x-rayloop-signature"].startswith("sha256=")
    assert requests["/hook"][1]["alarm"]["reason"] == "day 101"
    assert requests["/api/v2/alerts"][1][0]["labels"]["alertname"] == "RayloopQuality"
    assert monitor.status()["counters"]["failures"] == 1


def test_interrupted_notifications_are_sent_again(store, endpoint):
    class Deaf:
        def send(self, notice, receiver):
            """The process ends before it is sent."""

        def poll(self):
            return []

    runner = ManualRunner()
    monitor = DriftMonitor("m", store, runner=runner, sink=Deaf())
    monitor.watch(
        "1", REFERENCE, POLICY.model_copy(update={"notify": (NotificationTarget(url=f"{endpoint.url}/hook"),)})
    )
    send(monitor, 100, 3)
    runner.outcome = analysis_result(101 * DAY_S, quality_finding(101))
    monitor.status()
    notifier = Notifier()
    resumed = DriftMonitor("m", store, runner=ManualRunner(), sink=notifier)
    notifier.close()
    assert [list(e.notices.values()) for e in resumed.journal()] == [[SENT]]
    assert len(endpoint.requests) == 1


def test_status_has_the_last_analysis_under_its_stored_names(store):
    runner = ManualRunner()
    monitor = start_monitor(store, runner)
    send(monitor, 100, 3)
    runner.outcome = analysis_result(101 * DAY_S)
    last = monitor.status()["last_look"]
    assert (last["window"], last["wanted"]) == (101 * DAY_S, [])
    assert "label_candidates" not in last
