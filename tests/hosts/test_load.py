"""The load accounts for every request, whatever happens to the server."""

from __future__ import annotations

import json
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


def start_server(server: Host, program: str = SERVER) -> Process:
    process = server.start("python", "-c", program)
    server.wait_for_port(PORT, process)
    return process


MODEL = """
from aiohttp import web
labels = []
async def infer(request):
    body, key = await request.json(), request.headers["x-rayloop-key"]
    answer = {"model_version": key, "parameters": {"variant": "champion"}, "id": body["id"]}
    return web.json_response(answer | {"outputs": [{"data": [body["inputs"][0]]}]})
async def feedback(request):
    labels.extend((await request.json())["labels"])
    return web.json_response({"accepted": 1}, status=200 if len(labels) % 10 else 503)
async def received(request):
    return web.json_response(labels)
app = web.Application()
app.router.add_post("/infer", infer)
app.router.add_post("/feedback", feedback)
app.router.add_get("/labels", received)
web.run_app(app, port=8000)
"""


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


def test_load_of_predictions_records_answers_and_sends_each_a_label(client: Host, server: Host) -> None:
    start_server(server, MODEL)
    url = f"http://server:{PORT}"
    body = json.dumps({"inputs": [0.25]})
    plan = PLAN._replace(
        url=f"{url}/infer", body=body, keys=4, name="seed1", feedback_url=f"{url}/feedback", seconds=2.0, timeout_s=30.0
    )
    account = start_load(client, plan).finish(at_once=False)
    assert [(r.version, r.variant, r.score) for r in account.records] == [
        (plan.prediction(number)[1], "champion", 0.25) for number in range(account.planned)
    ]
    received = json.loads(client.run("curl", "--silent", f"{url}/labels").stdout)
    assert len(account.labels) == len(received) == account.planned
    assert {label["id"]: label["label"] for label in received} == {
        plan.prediction(label.number)[0]: label.value for label in account.labels
    }
    assert {label.outcome for label in account.labels} == {"200", "503"}
