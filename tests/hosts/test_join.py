"""A join of many events on two hosts and on one: the same bits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.hosts.figures import add_figure
from tests.hosts.job import Job
from tests.hosts.launcher import Cluster

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("join_job.py")
ROWS = int(os.environ.get("RAYLOOP_JOIN_ROWS", "300000"))


def test_events_joined_on_two_hosts_and_on_one_give_the_same_bits(cluster: Cluster, key: str) -> None:
    two = Job(cluster, SCRIPT, ROWS=ROWS).result()
    stays, goes = cluster.workers
    goes.kill()
    cluster.await_nodes([cluster.head, stays])
    one = Job(cluster, SCRIPT, ROWS=ROWS).result()
    cluster.boot(goes)
    cluster.await_nodes(cluster.nodes)
    work = f"{ROWS:,} events joined on two hosts and on one"
    add_figure(work, "digests", len({one["digest"], two["digest"]}), "=", 1)
    add_figure(work, "s on two hosts", two["seconds"], note="all hosts share two cores")
    add_figure(work, "s on one host", one["seconds"])
    assert (len(two["hosts"]), len(one["hosts"])) == (3, 2)
    assert one["digest"] == two["digest"]
