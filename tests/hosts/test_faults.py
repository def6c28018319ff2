"""A cluster of hosts under open load, while a host of it is lost, cut off, and back."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from tests.factories.until import until
from tests.hosts.figures import add_figure
from tests.hosts.host import Host
from tests.hosts.launcher import Cluster, infer_url, predict, predict_by_name, request_body
from tests.hosts.load import OK, Account, LoadPlan
from tests.hosts.load_client import Load
from tests.hosts.network import Network

pytestmark = pytest.mark.slow

RATE = 20.0
ANSWERED = int(OK)
LONGEST_S = 3600.0
"""Of a load, which ends when its test does."""
LONG_AWAY_S = 70.0
"""Longer than the 60 s after which, by Ray's default, a raylet without its head ends itself."""
KILLS = list(np.random.default_rng(0).uniform(0, 15, int(os.environ.get("RAYLOOP_HEAD_KILLS", "2"))))
"""Seconds for which the head is away, one kill after the other."""
BACK_S = 30.0
"""Seconds after the head's boot within which Serve's controller should work."""
ROTATION_S = 2.0
"""Seconds within which a host that is lost gets no more requests."""
COUNT_ROWS = """
from cluster.settings import load_settings
from cluster.storage.tables import Tables
print(Tables(load_settings()).read("visits.predictions", columns=["id"], where=("request", "{request}")).num_rows)
"""

StartLoad = Callable[[Host, str], Load]


@pytest.fixture
def start_load(cluster: Cluster, key: str) -> StartLoad:
    """Starts an open load on a host's door; all its requests have the same name."""

    def start(host: Host, name: str) -> Load:
        until(lambda: predict(cluster, host, key, "ready")[0] == ANSWERED, f"{host.name} answers")
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        plan = LoadPlan(infer_url(host), RATE, LONGEST_S, body=request_body(id=name), headers=headers)
        load = Load(cluster.client, plan)
        load.wait_for(OK)
        return load

    return start


def await_answers(load: Load, seconds: float) -> None:
    """Wait for as many answers as a load gets in so many seconds."""
    load.wait_for(OK, int(seconds * RATE), seconds + 60)


def failures(account: Account, fault: float) -> list[tuple[float, float, str]]:
    """Requests without an answer: when they were due and ended, in seconds after the fault, and what became of them."""
    failed = [record for record in account.records if record.outcome != OK]
    return [(round(r.due - fault, 2), round(r.ended - fault, 2), r.outcome) for r in failed]


def lost(account: Account) -> int:
    """Requests without an answer, or of which nothing is known."""
    return account.missing + len(failures(account, 0.0))


def described(accounts: Iterable[Account]) -> str:
    return f"of {sum(len(account.records) for account in accounts):,}"


def logged_rows(cluster: Cluster, name: str) -> int:
    return int(cluster.python(COUNT_ROWS.format(request=name)).split()[-1])


def lose_head(cluster: Cluster, loads: dict[str, Load], away_s: float) -> tuple[float, float]:
    """Kill the head, boot it again after so many seconds of load.

    Returns:
        When it was killed, and the seconds from its boot until Serve's controller works again.
    """
    cluster.head.kill()
    killed = time.monotonic()
    for load in loads.values():
        await_answers(load, killed + away_s - time.monotonic())
    booted = time.monotonic()
    cluster.boot(cluster.head)
    until(cluster.running_applications, "Serve's controller works")
    return killed, time.monotonic() - booted


@pytest.mark.parametrize("times", [[LONG_AWAY_S], KILLS], ids=["for long", "at random moments"])
def test_head_that_is_lost_and_back_fails_no_request_at_the_workers(
    cluster: Cluster, start_load: StartLoad, times: list[float]
) -> None:
    nodes = {node["node_ip"]: node["node_id"] for node in cluster.alive()}
    names = [f"head-lost-{uuid.uuid4().hex}" for _ in cluster.workers]
    loads = {name: start_load(worker, name) for name, worker in zip(names, cluster.workers, strict=True)}
    losses = [lose_head(cluster, loads, away_s) for away_s in times]
    cluster.await_replicas()
    accounts = {name: load.finish() for name, load in loads.items()}
    killed = losses[0][0]
    work = f"head killed {len(times)} times and back, {RATE:g} requests/s at each of two workers"
    add_figure(work, "failed requests", sum(map(lost, accounts.values())), "=", note=described(accounts.values()))
    back = [back_s for _, back_s in losses]
    add_figure(work, "s from boot to Serve's controller, median", float(np.median(back)))
    add_figure(work, "s from boot to Serve's controller, at most", max(back), "≤", BACK_S)
    assert [(failures(account, killed), account.missing) for account in accounts.values()] == [([], 0), ([], 0)]
    for name, account in accounts.items():
        until(lambda name=name, n=account.answered[OK]: logged_rows(cluster, name) == n, f"{name} is logged")
    after = {node["node_ip"]: node["node_id"] for node in cluster.alive()}
    # The workers are the same nodes: neither they nor their replicas started again.
    assert [after[worker.address] for worker in cluster.workers] == [nodes[w.address] for w in cluster.workers]


def test_worker_that_is_lost_fails_no_request_of_the_others_and_comes_back(
    cluster: Cluster, start_load: StartLoad, key: str
) -> None:
    stays, goes = cluster.workers
    load = start_load(stays, "worker-lost")
    goes.kill()
    killed = time.monotonic()
    # A client that knows both addresses of a name tries the other one, whichever comes first.
    orders = [order for order in ([goes, stays], [stays, goes]) for _ in range(5)]
    by_name = [predict_by_name(cluster, order, key, "by-name")[0] for order in orders]
    await_answers(load, killed + 30 - time.monotonic())
    cluster.boot(goes)
    cluster.await_nodes(cluster.nodes)
    cluster.await_replicas()
    account = load.finish()
    work = f"worker killed and back, {RATE:g} requests/s at the other one"
    add_figure(work, "failed requests", lost(account), "=", note=described([account]))
    # What was on its way to the host that went is small enough to be repeated.
    assert (failures(account, killed), account.missing) == ([], 0)
    assert by_name == [ANSWERED] * len(orders)
    start_load(goes, "worker-back").finish()


def test_worker_that_is_cut_off_answers_and_joins_again(
    cluster: Cluster, shared_network: Network, start_load: StartLoad
) -> None:
    stays, cut = cluster.workers
    load = start_load(cut, "cut-off")
    shared_network.partition([cut], [cluster.head, stays])
    cut_at = time.monotonic()
    await_answers(load, LONG_AWAY_S)
    shared_network.heal()
    healed = time.monotonic()
    cluster.await_nodes(cluster.nodes)
    cluster.await_replicas()
    back_s = time.monotonic() - healed
    account = load.finish()
    work = f"worker cut off for {LONG_AWAY_S:g} s, {RATE:g} requests/s at it"
    meanwhile = failures(account.between(cut_at + ROTATION_S, healed), cut_at)
    add_figure(work, "failed requests meanwhile", len(meanwhile), "=", note=f"{lost(account)} until it is back")
    add_figure(work, "s until it is back", back_s)
    assert meanwhile == []
    start_load(cut, "joined-again").finish()
