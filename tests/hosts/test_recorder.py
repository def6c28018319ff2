"""The recorder, on a small cluster without Ray, and its reading of real stores."""

from __future__ import annotations

import shlex
from types import SimpleNamespace
from typing import Any

import pytest

from tests.hosts.certificates import Authority
from tests.hosts.faults import FaultInjector
from tests.hosts.history.check import check
from tests.hosts.history.events import OK
from tests.hosts.host import Host
from tests.hosts.launcher import AT_HOME, VARIABLES
from tests.hosts.network import Network
from tests.hosts.recorder import Recorder
from tests.hosts.remote_stores import RemoteStores
from tests.hosts.schedules import Schedule
from tests.hosts.small_cluster import SmallCluster, SmallRecorder

pytestmark = pytest.mark.slow

WRITE = """
from cluster.settings import load_settings
from cluster.storage.tables import Tables
from deployments.rollout import state_machine
from deployments.rollout.journal import RolloutJournal
from deployments.rollout_policy import RolloutPolicy
from deployments.telemetry.prediction_log import prediction_rows
from tests.factories.deployments.predictions import prediction_batch
policy, tables = RolloutPolicy(steps=(0.5, 1.0)), Tables(load_settings())
state = state_machine.begin("r", "visits", "1", ("2",), policy, 0.0)
journal = RolloutJournal("visits", tables, 7)
journal.record(state_machine.journal_entry(state, "start", 0.0, {}), policy)
journal.record(state_machine.apply_command(state, "abort", "too slow", 1.0)[1], policy)
for number, name in enumerate(("seed1-0", "seed2-0")):
    rows = prediction_rows([prediction_batch(name, rollout=None, share=None)], f"replica:{number}")
    tables.append("visits.predictions", rows, key=f"ledger:visits@session:3:{number}")
"""


def small_recorder(network: Network, client: Host, forgetful: bool = False) -> SmallRecorder:
    workers = [network.hosts.get(name) or network.add(name) for name in ("worker1", "worker2")]
    return SmallRecorder(SmallCluster(client, workers, forgetful))


def test_schedule_on_a_correct_cluster_is_recorded_without_violations(network: Network, client: Host) -> None:
    recorder = small_recorder(network, client)
    first = Schedule.parse("1s freeze worker1 7s, 10s partition worker1 2s | 2s partition worker2 3s")
    for seed, schedule in ((0, first), (3, Schedule.parse("0.5s freeze worker2 7s"))):
        with FaultInjector(network, [client]) as injector:
            history = recorder.record(seed, schedule, injector)
        assert check(history) == []
        assert {fault.kind for fault in history.faults} == {fault.kind for lane in schedule.lanes for fault in lane}
        assert {request.outcome for request in history.requests} == {OK, "timeout"}
        assert {request.host for request in history.requests} == {"worker1", "worker2"}
        assert {row.variant for row in history.rows} == {"champion", "challenger"}
        assert any(label.outcome == OK for label in history.labels)
    # Of both schedules, whose rows do not mix.
    assert len({order.rollout for order in history.orders}) == 2
    assert all(row.id.startswith("seed3") for row in history.rows)


def test_cluster_that_loses_rows_is_found_out(network: Network, client: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.hosts.recorder.SETTLED_S", 1.0)
    recorder = small_recorder(network, client, forgetful=True)
    with FaultInjector(network, [client]) as injector:
        history = recorder.record(1, Schedule.parse("1s partition worker1 5s"), injector)
    assert {violation.rule for violation in check(history)} == {"predictions counted"}


def test_stores_are_read_from_the_client(network: Network, authority: Authority, client: Host) -> None:
    pytest.importorskip("psycopg2")
    pytest.importorskip("boto3")
    stores = RemoteStores(network, authority, "rec")
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in stores.variables().items()]
    client.write(VARIABLES, "".join(lines))
    stores.create_bucket(client, VARIABLES)
    cluster: Any = SimpleNamespace(client=client)
    recorder = Recorder(cluster, "")
    assert recorder.read("seed1").journal == ()
    client.run(*AT_HOME, "python", "-c", WRITE, env=stores.variables())
    history = recorder.read("seed1")
    assert [(entry.sequence, entry.epoch, entry.action) for entry in history.journal] == [
        (1, 7, "start"),
        (2, 7, "abort"),
    ]
    assert [row.id for row in history.rows] == ["seed1-0"]
    assert [commit.epoch for commit in history.commits] == [7, 7, 3, 3]
    assert {violation.rule for violation in check(history)} == {"aliases", "predictions counted"}
