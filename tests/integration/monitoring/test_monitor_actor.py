"""The monitor as an actor: found by name, fed without waiting, killed and restarted."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pyarrow as pa
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from cluster import jobs
from cluster.errors import DataError
from cluster.names import ACTOR_NAMESPACE, monitor_actor
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import Alarm
from monitoring.analysis.log_analysis import AnalysisRequest, AnalysisResult, Finding
from monitoring.drift_policy import DriftPolicy
from monitoring.retraining.decision import RetrainEntry
from monitoring.retraining.retrain_scheduler import TriggerStatus
from monitoring.retraining.triggers import OnRows, RetrainPolicy
from monitoring.runtime.facts_reader import RetrainHandlers
from monitoring.runtime.monitor_actor import start_monitor
from monitoring.statistics.drift_reference import MonitoredColumn
from rayloop.retraining.loop_facts import LoopFactsTask
from tests.factories.monitoring import streams
from tests.factories.until import until

pytestmark = pytest.mark.cluster

DEADLINE_S = 60.0
POLICY = DriftPolicy(span=1, min_rows=100, watch=(MonitoredColumn(column="x", direction="up"),))


class Touch:
    """An action that leaves a line in a file for each time it was called."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, alarm: Alarm) -> str:
        with self.path.open("a") as out:
            out.write(f"{alarm.version} {alarm.window}\n")
        return f"job for window {alarm.window:.0f}"


def answered(ask: Callable[[], Any], what: str) -> Any:
    """The first true answer; an actor on its way back counts as not yet."""
    return until(ask, what, DEADLINE_S, (ray.exceptions.RayActorError,))


def find_loss(request: AnalysisRequest) -> AnalysisResult:
    """An analysis that finds a larger loss."""
    finding = Finding(kind="quality", window=request.window, reason="worse", features={"loss": 2.0})
    return AnalysisResult(
        version=request.version, window=request.window, since=request.since, rows=1, findings=(finding,)
    )


def fail(request: AnalysisRequest) -> AnalysisResult:
    raise DataError("data.log_empty", model="shop")


def die(request: AnalysisRequest) -> AnalysisResult:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.fixture
def monitor(cluster: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    model = request.node.name
    handle = start_monitor(cluster, model, {"retrain": Touch(tmp_path / "acted")})
    ray.get(handle.watch.remote("1", streams.reference(0).to_bytes(), POLICY))
    yield handle
    ray.kill(handle, no_restart=True)


def send(handle: Any, first: int, days: int, **kind: float) -> None:
    for start, profile in streams.windows(first, days, 300, first=first, **kind).items():
        handle.observe.remote("1", start, profile.to_bytes())


def pid(handle: Any) -> int:
    return ray.get(handle.__ray_call__.remote(lambda _: os.getpid()))


def test_monitor_actor_resumes_after_a_kill(monitor, cluster, tmp_path, request):
    send(monitor, 100, 3)
    send(monitor, 103, 3, shift=2.0)
    before = ray.get(monitor.status.remote())
    assert before["drifting"]
    killed = pid(monitor)
    os.kill(killed, signal.SIGKILL)
    answered(lambda: pid(monitor) != killed, "it is back")
    after = ray.get(monitor.status.remote())
    for field in ("version", "drifting", "windows", "alarms", "open_windows"):
        assert after[field] == before[field]
    send(monitor, 106, 3, shift=2.0)
    assert ray.get(monitor.status.remote())["windows"] == before["windows"] + 3
    assert (tmp_path / "acted").read_text() == f"1 {103 * streams.DAY_S}\n"
    restarted = ray.get_actor(monitor_actor(request.node.name), namespace=ACTOR_NAMESPACE)
    assert ray.get(restarted.status.remote())["version"] == "1"


def test_monitor_actor_survives_damaged_profiles(monitor):
    first = pid(monitor)
    for data in (b"\x00", b"{}", None, 7, "text"):
        monitor.observe.remote("1", 100 * streams.DAY_S, data)
    monitor.observe.remote("1", "never", b"{}")
    send(monitor, 100, 2)
    status = ray.get(monitor.status.remote())
    assert status["counters"]["rejected"] == 6
    assert status["windows"] == 1
    assert pid(monitor) == first


def test_monitor_actor_serves_its_metrics(monitor):
    send(monitor, 100, 3)
    address = ray.get(monitor.status.remote())["metrics"]
    with urlopen(address, timeout=10) as answer:
        families = {f.name: f for f in text_string_to_metric_families(answer.read().decode())}
    assert {s.labels["column"] for s in families["rayloop_drift_ratio"].samples} == {"x", "score", "c"}


def test_stuck_monitor_actor_does_not_block_its_callers(monitor):
    stuck = pid(monitor)
    os.kill(stuck, signal.SIGSTOP)
    try:
        began = time.monotonic()
        send(monitor, 100, 50)
        send_s = time.monotonic() - began
    finally:
        os.kill(stuck, signal.SIGCONT)
    assert send_s < 5
    assert answered(lambda: ray.get(monitor.status.remote())["windows"] == 49, "all windows are closed")


class SubmitNothing:
    """Submits a job that ends at once."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.settings, self.name = settings, name

    def __call__(self, entry: RetrainEntry) -> str:
        return jobs.submit(self.settings, [sys.executable, "-c", "pass"], None, f"{self.name}-{entry.at:.6f}")


def test_rows_that_land_start_a_job_that_is_followed_to_its_end_across_a_kill(cluster, request):
    model = request.node.name.split("[")[0]
    tables, landed = Tables(cluster), pa.table({"id": [str(i) for i in range(10)]})
    tables.append(f"{model}.sales", landed, "first")
    facts = LoopFactsTask(cluster, model, {"": f"{model}.sales"})
    handle = start_monitor(cluster, model, retraining=RetrainHandlers(facts, SubmitNothing(cluster, model)))
    try:
        ray.get(handle.schedule.remote(RetrainPolicy(on=(OnRows(rows=10),), max_runs=1, check_s=0.1)))

        def trigger() -> TriggerStatus:
            return ray.get(handle.schedule_status.remote()).triggers[0]

        # Until the first look, the count has not begun.
        answered(lambda: trigger().progress == "0 of 10", "the first count is known")
        tables.append(f"{model}.sales", landed, "second")
        answered(lambda: trigger().last, "a run has started")
        killed = pid(handle)
        os.kill(killed, signal.SIGKILL)
        answered(lambda: pid(handle) != killed, "it is back")
        answered(lambda: (run := trigger().last) is not None and run.outcome == "succeeded", "its job has ended")
        answered(lambda: trigger().progress == "0 of 10", "counting starts again")
        tables.append(f"{model}.sales", landed, "third")
        assert answered(lambda: trigger().missed, "the budget withholds a second run").event == "withheld"
        status = ray.get(handle.schedule_status.remote())
        assert [entry.event for entry in status.journal] == ["run", "withheld"]
        assert status.journal[0].reason.startswith("10 new rows since ")
    finally:
        ray.kill(handle, no_restart=True)


def start_analyzing(cluster: Settings, model: str, analyze: Callable[[AnalysisRequest], AnalysisResult]) -> Any:
    handle = start_monitor(cluster, model, analyze=analyze)
    ray.get(handle.watch.remote("1", streams.reference(0).to_bytes(), POLICY))
    send(handle, 100, 2)
    return handle


def test_monitor_actor_turns_the_finding_of_an_analysis_task_into_an_alarm(cluster):
    handle = start_analyzing(cluster, "analyzed", find_loss)
    try:
        (entry,) = answered(lambda: ray.get(handle.journal.remote()), "an alarm is journaled")
        assert (entry.alarm.kind, entry.action) == ("quality", "notify")
        assert ray.get(handle.analyses.remote()).analyses[0].window == 100 * streams.DAY_S
    finally:
        ray.kill(handle, no_restart=True)


@pytest.mark.parametrize(("analyze", "error"), [(fail, "the prediction log of 'shop' is empty"), (die, "")])
def test_monitor_actor_survives_an_analysis_that_fails_or_dies(cluster, analyze, error):
    handle = start_analyzing(cluster, f"analysis_{analyze.__name__}", analyze)
    try:
        answered(lambda: ray.get(handle.status.remote())["counters"].get("failures"), "an analysis has failed")
        status = ray.get(handle.status.remote())
        assert status["last_error"].startswith("a log analysis failed: ")
        assert error in status["last_error"]
        send(handle, 102, 1)
        assert ray.get(handle.status.remote())["windows"] == 2
    finally:
        ray.kill(handle, no_restart=True)
