"""When a look is asked for, what of it is news, and that the monitor takes it in, acts, and survives what goes wrong."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from cluster.values import Alarm, Usage
from monitoring.analysis.analysis_scheduler import Lookout
from monitoring.analysis.log_analysis import Asked, Finding, Looked, WindowQuality
from monitoring.analysis.multivariate_drift import Multivariate
from monitoring.detection.detector import judge
from monitoring.detection.notification_payloads import Notice, alertmanager, webhook
from monitoring.detection.notifier import SENT, Notifier, deliver
from monitoring.drift_policy import DAY_S, DriftPolicy, LookPolicy, Receiver
from monitoring.export.cost import Prices, Used, cost
from monitoring.export.prometheus import PrometheusExporter
from monitoring.performance.loss_bounds import Labelled, limits
from monitoring.runtime.monitor import REPLICA_GONE_S, DriftMonitor
from monitoring.runtime.state_store import Folder
from monitoring.samples.domain_classifier import Separation
from monitoring.statistics.calibration import Calibration
from tests.factories.deployments.endpoint import Endpoint
from tests.factories.monitoring import streams

LOOK = LookPolicy(every_s=0, label_wait_s=3 * DAY_S, actions={"quality": "rollback", "multivariate": "retrain"})
POLICY = DriftPolicy(span=2, min_rows=100, look=LOOK, cooldown_s=0, watch=())
REFERENCE = streams.reference(0).to_bytes()


class Looks:
    """Looks that a test decides the end of."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answer: Looked | str | None = None

    def start(self, asked: Asked) -> None:
        self.asked.append(asked)

    def finished(self) -> Looked | str | None:
        answer, self.answer = self.answer, None
        return answer


def looked(window: float, *findings: Finding, version: str = "1", faults: tuple[str, ...] = ()) -> Looked:
    labelled = Labelled.of(np.arange(200) % 5 == 0, 400)
    quality = WindowQuality(
        version=version,
        window=window,
        labelled=labelled,
        limits=limits(labelled, 0.05),
        reference=0.1,
        worse=True,
        observed={"accuracy": 0.8},
        estimated={"CBPE": {"accuracy": 0.9}},
    )
    return Looked(
        version=version,
        window=window,
        since=window,
        rows=400,
        quality=(quality,),
        findings=findings,
        faults=faults,
    )


def worse(day: int, name: str = "") -> Finding:
    return Finding(kind="quality", window=day * DAY_S, reason=f"day {day}", name=name, features={"loss": 2.0})


def send(to: DriftMonitor, first: int, days: int) -> None:
    for start, profile in streams.windows(first, days, 300, first=first).items():
        to.observe("1", start, profile.to_bytes())


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "monitor")


@pytest.fixture
def endpoint():
    made = Endpoint()
    yield made
    made.close()


def monitor(folder, looks, acts=None, **more) -> DriftMonitor:
    made = DriftMonitor("m", folder, acts or {}, looks=looks, **more)
    made.watch("1", REFERENCE, POLICY)
    return made


def test_a_closed_run_is_looked_at_with_all_windows_that_may_get_labels(folder):
    looks = Looks()
    watching = monitor(folder, looks)
    send(watching, 100, 3)
    assert looks.asked[0].windows == (100 * DAY_S, 101 * DAY_S)
    assert (looks.asked[0].since, looks.asked[0].until) == (100 * DAY_S, 102 * DAY_S)
    send(watching, 103, 4)
    assert len(looks.asked) == 1
    looks.answer = looked(101 * DAY_S)
    watching.status()
    # Only the newest run waits; windows in between are looked at with it while their labels may come.
    assert [int(w / DAY_S) for w in looks.asked[1].windows] == [103, 104, 105]


def test_findings_are_called_out_once_a_spell():
    lookout, policy = Lookout(), POLICY.model_copy(update={"release": 2})
    asked = Asked(model="m", version="1", windows=(DAY_S,), since=DAY_S, policy=policy)

    def news(*findings: Finding) -> list[str]:
        return [one.reason for one in lookout.took(asked, looked(DAY_S, *findings))]

    assert news(worse(5)) == ["day 5"]
    assert news(worse(5), worse(6), worse(7)) == []
    assert news(worse(9), worse(9, "shop = a")) == ["day 9"]
    assert news(worse(12)) == ["day 12"]
    assert news(worse(4)) == []
    lookout.follow()
    assert news(worse(12)) == ["day 12"]


def test_what_is_kept_of_looks_is_small_however_wide_the_model():
    calibration = Calibration(streams.reference(0), 1, ())
    live = streams.windows(1, 1, 300, first=100, shift=2.0)[100 * DAY_S]
    result = judge(calibration, POLICY.model_copy(update={"span": 1}), "1", (100 * DAY_S,), live)
    ranked = tuple((f"x{i}", 0.001) for i in range(1_000))
    told = Separation(auc=0.7, low=0.6, high=0.8, p_value=0.1, ranked=ranked)
    found = looked(DAY_S).model_copy(
        update={
            "segments": {"shop = a": result},
            "multivariate": Multivariate(separation=told, p_value=0.1, drifted=False, ordinary=(0.5,)),
        }
    )
    lookout = Lookout()
    lookout.took(Asked(model="m", version="1", windows=(DAY_S,), since=DAY_S, policy=POLICY), found)
    (kept,) = lookout.state.looks
    assert set(kept.segments["shop = a"].columns) == set(result.drifted) < set(result.columns)
    assert len(kept.multivariate.separation.ranked) == 20
    assert (lookout.state.ordinary, len(lookout.state.quality)) == ((0.5,), 1)


def test_a_finding_is_journaled_and_acted_on_as_its_kind_asks(folder):
    looks, done = Looks(), []
    acts = {"rollback": lambda a: f"back {a.kind}", "retrain": lambda a: done.append(a) or "job"}
    watching = monitor(folder, looks, acts)
    send(watching, 100, 3)
    looks.answer = looked(
        101 * DAY_S,
        worse(101),
        Finding(kind="labels", window=101 * DAY_S, reason="moved"),
        Finding(kind="multivariate", window=101 * DAY_S, reason="apart"),
    )
    kinds = {e.alarm.kind: (e.action, e.outcome) for e in watching.journal()}
    assert kinds == {
        "quality": ("rollback", "back quality"),
        "labels": ("notify", "journaled"),
        "multivariate": ("retrain", "job"),
    }
    (entry,) = [e for e in watching.journal() if e.alarm.kind == "quality"]
    assert entry.alarm.features == {"loss": 2.0}
    assert watching.looks().quality[0].worse


def test_an_action_cools_down_for_all_kinds(folder):
    looks = Looks()
    watching = DriftMonitor("m", folder, {"rollback": lambda a: "back"}, looks=looks)
    watching.watch("1", REFERENCE, POLICY.model_copy(update={"cooldown_s": 5 * DAY_S}))
    send(watching, 100, 3)
    looks.answer = looked(101 * DAY_S, worse(101), worse(101, "shop = a"))
    assert [e.action for e in watching.journal()] == ["rollback", "held"]
    assert watching.journal()[1].outcome.startswith("cooling down until")


def test_a_look_that_fails_is_counted_and_the_next_window_is_looked_at(folder):
    looks = Looks()
    watching = monitor(folder, looks)
    send(watching, 100, 3)
    looks.answer = "the frame is gone"
    status = watching.status()
    assert (status["counters"]["failures"], status["last_error"]) == (1, "a look failed: the frame is gone")
    assert status["looking"] is False
    send(watching, 103, 1)
    assert len(looks.asked) == 2


def test_a_look_that_a_kill_cut_short_is_asked_for_again(folder):
    send(monitor(folder, Looks()), 100, 3)
    looks = Looks()
    resumed = DriftMonitor("m", folder, looks=looks)
    resumed.status()
    assert [asked.window / DAY_S for asked in looks.asked] == [101]
    looks.answer = looked(101 * DAY_S, worse(101))
    assert [e.alarm.kind for e in resumed.journal()] == ["quality"]
    again = DriftMonitor("m", folder, looks=Looks())
    assert again.looks() == resumed.looks()
    assert again.status()["looking"] is False


def test_what_a_look_found_waits_for_no_request(folder):
    acted, looks = [], Looks()
    watching = monitor(folder, looks, {"rollback": lambda a: acted.append(a.kind) or "back"})
    send(watching, 100, 3)
    looks.answer = looked(101 * DAY_S, worse(101))
    watching.used(Usage(replica="a", cpu_s=1, reserved_cpu_s=5, reserved_gpu_s=0, gib_s=1, requests=0))
    assert acted == ["quality"]


def test_what_is_seen_of_a_version_that_is_watched_no_more_is_dropped(folder):
    looks = Looks()
    watching = monitor(folder, looks)
    send(watching, 100, 3)
    watching.watch("2", REFERENCE, POLICY)
    looks.answer = looked(101 * DAY_S, worse(101))
    assert watching.journal() == []


def test_looks_can_be_switched_off(folder):
    looks = Looks()
    watching = DriftMonitor("m", folder, looks=looks)
    watching.watch("1", REFERENCE, POLICY.model_copy(update={"look": None}))
    send(watching, 100, 4)
    assert looks.asked == []


def test_figures_of_a_look_and_of_cost_are_shown(folder):
    looks, exporter = Looks(), PrometheusExporter()
    watching = DriftMonitor("m", folder, exporters=(exporter,), looks=looks, prices=Prices(cpu=1.0, gpu=10.0, gib=0.0))
    watching.watch("1", REFERENCE, POLICY, {"team": "fares", "purpose": "quotes"})
    send(watching, 100, 3)
    looks.answer = looked(101 * DAY_S)
    for replica in ("a", "b"):
        watching.used(Usage(replica=replica, cpu_s=100, reserved_cpu_s=3600, reserved_gpu_s=180, gib_s=9e9, requests=5))
    status = watching.status()
    assert (status["cost"], status["replicas"], status["used"]["requests"]) == (3.0, 2, 10)
    text = exporter.text()
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
    resumed = DriftMonitor("m", folder, prices=Prices(cpu=1.0, gpu=10.0, gib=0.0))
    assert resumed.status()["tags"] == {"team": "fares", "purpose": "quotes"}


def gauges(exporter: PrometheusExporter, *without: str) -> list[str]:
    """What is exported, but for counters, which begin anew with a process, and what replicas tell."""
    lines = exporter.text().splitlines()
    return [line for line in lines if "_total" not in line and "_created" not in line and not line.startswith(without)]


def test_a_process_that_begins_anew_shows_what_the_one_before_it_showed(folder):
    looks, before, after = Looks(), PrometheusExporter(), PrometheusExporter()
    watching = DriftMonitor("m", folder, exporters=(before,), looks=looks)
    watching.watch("1", REFERENCE, POLICY)
    send(watching, 100, 3)
    looks.answer = looked(101 * DAY_S, worse(101))
    watching.status()
    DriftMonitor("m", folder, exporters=(after,), looks=Looks())
    assert gauges(after, "#") == gauges(before, "#")
    assert 'rayloop_loss_worse{model="m",segment="",version="1"} 1.0' in gauges(after)


def test_alerts_on_a_version_end_when_another_is_watched(folder):
    looks, exporter = Looks(), PrometheusExporter()
    watching = DriftMonitor("m", folder, exporters=(exporter,), looks=looks)
    watching.watch("1", REFERENCE, POLICY)
    send(watching, 100, 3)
    looks.answer = looked(101 * DAY_S, worse(101))
    watching.status()
    watching.watch("2", REFERENCE, POLICY)
    standing = [
        line for line in gauges(exporter, "#") if line.startswith(("rayloop_drift_drifting", "rayloop_loss_worse"))
    ]
    assert standing == [
        'rayloop_drift_drifting{model="m",version="2"} 0.0',
        'rayloop_loss_worse{model="m",segment="",version="2"} 0.0',
    ]


def test_a_replica_that_is_silent_is_counted_no_more(folder, monkeypatch):
    watching = monitor(folder, Looks())
    watching.used(Usage(replica="a", cpu_s=1, reserved_cpu_s=1, reserved_gpu_s=0, gib_s=1, requests=1))
    assert watching.status()["replicas"] == 1
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + REPLICA_GONE_S + 1.0)
    assert watching.status()["replicas"] == 0


def test_cost_is_that_of_what_is_held():
    usage = Usage(replica="a", cpu_s=1.0, reserved_cpu_s=7200.0, reserved_gpu_s=3600.0, gib_s=3600.0, requests=1)
    assert cost(Used().plus(usage), Prices(cpu=0.5, gpu=2.0, gib=0.25)) == pytest.approx(3.25)


def test_receivers_are_told_signed_and_a_failure_is_journaled(folder, endpoint, monkeypatch):
    monkeypatch.setenv("HOOK", "hush")
    endpoint.answers["/broken"] = 500
    tell = (
        Receiver(url=f"{endpoint.url}/hook", secret_env="HOOK"),
        Receiver(url=endpoint.url, kind="alertmanager"),
        Receiver(url=f"{endpoint.url}/broken"),
    )
    looks, tells = Looks(), Notifier(pause_s=0.0)
    watching = DriftMonitor("m", folder, looks=looks, tells=tells)
    watching.watch("1", REFERENCE, POLICY.model_copy(update={"tell": tell}))
    send(watching, 100, 3)
    looks.answer = looked(101 * DAY_S, worse(101))
    watching.status()
    tells._pool.shutdown(wait=True)
    (entry,) = watching.journal()
    assert list(entry.notices.values()) == [SENT, SENT, "HTTP 500"]
    heard = {path: (headers, json.loads(body)) for path, headers, body in endpoint.heard}
    assert heard["/hook"][0]["x-rayloop-signature"].startswith("sha256=")
    assert heard["/hook"][1]["alarm"]["reason"] == "day 101"
    assert heard["/api/v2/alerts"][1][0]["labels"]["alertname"] == "RayloopQuality"
    assert watching.status()["counters"]["failures"] == 1


def test_notices_that_a_kill_cut_short_are_sent_again(folder, endpoint):
    class Deaf:
        def send(self, notice, receiver):
            """The process ends before it is sent."""

        def finished(self):
            return []

    looks = Looks()
    watching = DriftMonitor("m", folder, looks=looks, tells=Deaf())
    watching.watch("1", REFERENCE, POLICY.model_copy(update={"tell": (Receiver(url=f"{endpoint.url}/hook"),)}))
    send(watching, 100, 3)
    looks.answer = looked(101 * DAY_S, worse(101))
    watching.status()
    tells = Notifier()
    resumed = DriftMonitor("m", folder, looks=Looks(), tells=tells)
    tells._pool.shutdown(wait=True)
    assert [list(e.notices.values()) for e in resumed.journal()] == [[SENT]]
    assert len(endpoint.heard) == 1


def notice(moment="alarm") -> Notice:
    alarm = Alarm(model="m", version="7", window=DAY_S, reason="x moved", features={"x": 1.5}, kind="quality")
    return Notice(moment=moment, alarm=alarm, action="retrain", outcome="job-1", at=DAY_S)


def test_alertmanager_gets_one_alert_that_a_later_one_replaces():
    (alarm,) = json.loads(alertmanager(notice()))
    (quiet,) = json.loads(alertmanager(notice("quiet")))
    assert alarm["startsAt"] == "1970-01-02T00:00:00+00:00"
    assert alarm["endsAt"] > alarm["startsAt"]
    assert alarm["annotations"]["description"] == "x moved"
    assert alarm["labels"] == {
        "alertname": "RayloopQuality",
        "model": "m",
        "version": "7",
        "kind": "quality",
        "severity": "critical",
    }
    assert quiet["labels"] == alarm["labels"]
    assert quiet["endsAt"] == "1970-01-02T00:00:00+00:00"
    assert json.loads(webhook(notice()))["outcome"] == "job-1"


def test_a_receiver_that_is_not_there_is_tried_and_told_of():
    told = deliver(notice(), Receiver(url="http://127.0.0.1:9/none", timeout_s=1), pause_s=0.0)
    assert "ConnectError" in told
    assert "KeyError" in deliver(notice(), Receiver(url="http://127.0.0.1:9", secret_env="NOT_SET_AT_ALL"), pause_s=0.0)
