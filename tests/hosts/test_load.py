"""The load accounts for every request, whatever happens to the server."""

from __future__ import annotations

import time

import pytest

from tests.hosts.host import Host
from tests.hosts.load import LoadPlan
from tests.hosts.load_client import Load
from tests.hosts.network import Network
from tests.hosts.process import Process

PORT = 8000
PLAN = LoadPlan(f"http://server:{PORT}", rate=50.0, seed=17, timeout_s=1.0)
SERVER = """
import itertools
from aiohttp import web
numbers = itertools.count()
async def answer(request):
    await request.read()
    return web.Response(status=503 if next(numbers) % 10 == 9 else 200)
app = web.Application()
app.router.add_post("/", answer)
web.run_app(app, port=8000)
"""


def start_server(server: Host) -> Process:
    process = server.start("python", "-c", SERVER)
    server.wait_for_port(PORT, process)
    return process


def start_load(client: Host, plan: LoadPlan = PLAN) -> Load:
    """Start a load, and wait until it is under way."""
    load = Load(client, plan)
    load.wait_for("200")
    return load


def test_load_without_faults_has_only_answers(client: Host, server: Host) -> None:
    start_server(server)
    # Time enough for each request on a busy machine.
    plan = PLAN._replace(seconds=2.0, timeout_s=30.0)
    account = start_load(client, plan).finish(at_once=False)
    busy = account.planned // 10
    assert (account.missing, account.failed) == (0, {})
    assert account.answered == {"200": account.planned - busy, "503": busy}
    assert account.planned == len(plan.offsets())
    assert 0 < account.latency_s(0.5) <= account.latency_s(0.99) < account.outage_s() + plan.timeout_s


def test_load_on_a_killed_and_rebooted_server_accounts_for_every_request(client: Host, server: Host) -> None:
    start_server(server)
    load = start_load(client)
    server.kill()
    killed = time.monotonic()
    load.wait_for("timeout")
    booted = time.monotonic()
    server.boot()
    start_server(server)
    load.wait_for("200")
    account = load.finish()
    assert account.missing == 0
    assert account.planned == sum(account.answered.values()) + sum(account.failed.values())
    # A packet sent again to the host after its boot finds no connection: reset.
    assert set(account.failed) <= {"timeout", "unreachable", "refused", "reset"}
    assert account.between(killed, booted - PLAN.timeout_s).answered == {}
    assert account.outage_s() > booted - killed
    assert account.records[-1].outcome in ("200", "503")


def test_load_through_a_partition_fails_by_timeout_only(network: Network, client: Host, server: Host) -> None:
    start_server(server)
    load = start_load(client)
    network.partition([client], [server])
    begin = time.monotonic()
    load.wait_for("timeout")
    end = time.monotonic()
    network.heal()
    load.wait_for("200")
    account = load.finish()
    assert account.missing == 0
    assert set(account.failed) <= {"timeout", "unreachable"}
    assert account.between(begin, end - PLAN.timeout_s).answered == {}
    assert account.outage_s() > end - begin
    assert account.records[-1].outcome in ("200", "503")


def test_load_on_a_server_that_hangs_and_one_that_ends_has_different_failures(client: Host, server: Host) -> None:
    process = start_server(server)
    load = start_load(client)
    server.freeze()
    load.wait_for("timeout")
    server.thaw()
    process.stop()
    load.wait_for("refused")
    account = load.finish()
    assert account.missing == 0
    assert account.failed["timeout"]
    assert account.failed["refused"]


def test_account_of_a_killed_client_shows_missing_requests(client: Host, server: Host) -> None:
    start_server(server)
    load = start_load(client)
    client.kill()
    with pytest.raises(AssertionError):
        load.finish(at_once=False)
