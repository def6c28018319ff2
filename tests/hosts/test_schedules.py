"""Random schedules of faults, on one standing cluster under load, leave histories without a violation.

``RAYLOOP_SCHEDULES`` is how many, 3 by default; ``RAYLOOP_SCHEDULE`` is the line of one to play instead.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.hosts.certificates import Authority
from tests.hosts.faults import FaultInjector, Service
from tests.hosts.figures import add_figure
from tests.hosts.history.check import check
from tests.hosts.host import Host
from tests.hosts.launcher import RUN_S, Cluster
from tests.hosts.network import Network
from tests.hosts.recorder import Recorder
from tests.hosts.remote_stores import RemoteStores
from tests.hosts.schedules import Schedule, generate
from tests.hosts.stores import start_postgres

pytestmark = pytest.mark.slow

SEEDS = range(int(os.environ.get("RAYLOOP_SCHEDULES", "3")))
LINE = os.environ.get("RAYLOOP_SCHEDULE", "")


def node_faults(host: Host) -> list[str]:
    """What a node may get, which depends on whether it has a disk and a clock of its own."""
    clock = ["clock-ahead", "clock-behind"] if host.own_clock else []
    return ["kill", "partition", "freeze", *clock, *(["full-disk"] if host.disk_mb else [])]


@pytest.fixture(scope="module")
def recorder(cluster: Cluster, key: str) -> Recorder:
    """Of a cluster with two versions. The second one is on trial then, unless it was trained before."""
    cluster.rayloop("retrain", "project/visits.py", "--until", "2024-01-25T00:00:00", timeout_s=RUN_S)
    return Recorder(cluster, key)


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed{seed}")
def test_schedule_of_faults_leaves_a_history_without_violations(
    seed: int,
    recorder: Recorder,
    cluster: Cluster,
    stores: RemoteStores,
    authority: Authority,
    shared_network: Network,
    tmp_path: Path,
) -> None:
    def restart_postgres() -> None:
        stores.postgres = start_postgres(stores.postgres.host, authority)

    nodes = {host.name: node_faults(host) for host in cluster.nodes}
    # Redis and S3 forget what they hold, or their keys, when they are started again.
    remote = {store.host.name: ["partition", "freeze"] for store in (stores.redis, stores.s3)}
    remote[stores.postgres.host.name] = ["stop", "partition", "freeze"]
    schedule = Schedule.parse(LINE) if LINE else generate(seed, (nodes, remote))
    services = {
        stores.postgres.host.name: Service(lambda: stores.postgres.process.stop(signal.SIGINT), restart_postgres)
    }

    cluster.await_nodes(cluster.nodes)
    cluster.await_replicas()
    with FaultInjector(shared_network, [cluster.client], cluster.boot, services) as injector:
        history = recorder.record(seed, schedule, injector)
    (tmp_path / "history.json").write_text(history.to_json())
    violations = check(history)
    add_figure(f"schedule of faults {seed}", "violations", len(violations), "=", note=str(schedule))
    assert violations == [], f"{schedule}\n{tmp_path}/history.json"
