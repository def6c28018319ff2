"""Two workers that train on two hosts, on one, and while a host of theirs goes."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.factories.until import until
from tests.hosts.figures import add_figure
from tests.hosts.host import Host
from tests.hosts.job import Job
from tests.hosts.launcher import RUN_S, Cluster

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("fit_job.py")
ROWS, EPOCHS = 20_000, 24
SPREAD, PACKED = 1.2, 0.5
"""CPUs of each worker. A host has two, of which replicas leave more than the first and less than twice that."""
LOST_SHARE = 0.05
NOTICE_S = 5
"""Seconds between the notice and the end of a machine."""


def fit(cluster: Cluster, cpus: float, name: str) -> Job:
    """Submit a fit by two workers."""
    checkpoints = f"s3://rayloop/fits/{name}-{uuid.uuid4().hex}"
    return Job(cluster, SCRIPT, CPUS=cpus, ROWS=ROWS, EPOCHS=EPOCHS, CHECKPOINTS=checkpoints)


def steps(job: Job) -> list[dict[str, Any]]:
    return [event for event in job.events if "step" in event]


def lost_share(job: Job) -> float:
    """Share of all steps that were done before the newest checkpoint was read again."""
    done = steps(job)
    return sum(a["step"] - b["step"] for a, b in itertools.pairwise(done) if b["resumed"]) / done[-1]["of"]


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, key: str) -> dict[str, Any]:
    """Two workers on two hosts."""
    result = fit(cluster, SPREAD, "undisturbed").result()
    assert set(result["hosts"]) == {host.address for host in cluster.nodes}
    return result


def test_workers_on_two_hosts_give_the_weights_of_workers_on_one(cluster: Cluster, undisturbed: dict[str, Any]) -> None:
    result = fit(cluster, PACKED, "packed").result()
    assert len({*result["hosts"]} - {cluster.head.address}) == 1
    assert result["digest"] == undisturbed["digest"]


def kill(cluster: Cluster, host: Host) -> None:
    host.kill()
    cluster.boot(host)


def drain(cluster: Cluster, host: Host) -> None:
    """As a cloud does that takes a machine back: it says so, and ends the machine at the deadline."""
    (node,) = (node["node_id"] for node in cluster.alive() if node["node_ip"] == host.address)
    options = (
        f"--reason DRAIN_NODE_REASON_PREEMPTION --reason-message preempted --deadline-remaining-seconds {NOTICE_S}"
    )
    cluster.head.run("bash", "-ic", f"RAY_AUTH_MODE=token ray drain-node --node-id {node} {options}")
    time.sleep(NOTICE_S)
    kill(cluster, host)


@pytest.mark.parametrize("take", [kill, drain])
def test_host_that_goes_costs_few_steps_and_no_bit(
    cluster: Cluster, undisturbed: dict[str, Any], take: Callable[[Cluster, Host], None]
) -> None:
    job = fit(cluster, SPREAD, take.__name__)
    until(lambda: any(event["step"] > event["of"] / 4 for event in steps(job)), "a quarter is trained", RUN_S)
    take(cluster, cluster.workers[1])
    digest = job.result()["digest"]
    work = f"training on two hosts, of which one gets a {take.__name__}"
    add_figure(work, "% of the steps lost", 100 * lost_share(job), "≤", 100 * LOST_SHARE)
    assert digest == undisturbed["digest"]
    assert [event["resumed"] for event in steps(job)].count(True) == 1
    assert not steps(job)[0]["resumed"]
    assert 0 <= lost_share(job) <= LOST_SHARE
