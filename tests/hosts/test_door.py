"""Doors on several hosts: what passes between them is encrypted, and a host that is gone takes no requests with it."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import pytest

from benchmarks.cluster.replicas import MODEL
from cluster.door.membership import Target
from tests.factories.until import until
from tests.hosts import clock
from tests.hosts.certificates import CA, Authority
from tests.hosts.door_hosts import GRPC_PORT, PEER_PORT, REPLICA_PORT, DoorHosts, door_hosts
from tests.hosts.faults import STEP_S
from tests.hosts.figures import add_figure
from tests.hosts.host import Host
from tests.hosts.load import OK, LoadPlan
from tests.hosts.load_client import Load
from tests.hosts.network import Network

MARKER = "a-payload-that-only-the-replica-may-read"
LAST = "the-last-packet"
OUT_S = 2.0
"""Seconds after which a host that is gone gets no requests."""
CALL = """
import sys, time, grpc
from concurrent.futures import ThreadPoolExecutor
from deployments.protocol import inference_pb2 as pb
trust = grpc.ssl_channel_credentials(open(sys.argv[2], "rb").read())
request = pb.ModelInferRequest(model_name=sys.argv[3], id=sys.argv[4])
with ThreadPoolExecutor(64) as pool, grpc.secure_channel(sys.argv[1], trust) as channel:
    call = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    def answer():
        print(call(request, timeout=20).model_version + "\\n", end="", flush=True)
    sent = []
    for _ in range(int(sys.argv[5])):
        sent.append(pool.submit(answer))
        time.sleep(0.02)
    for each in sent:
        each.result()
"""
Build = Callable[..., AbstractContextManager[DoorHosts]]


@pytest.fixture
def build(network: Network, client: Host, authority: Authority) -> Build:
    return partial(door_hosts, network, client, authority=authority)


def send(doors: DoorHosts, host: Host, body: str) -> str:
    """Send a request to a host's door. Returns its status."""
    status = ("--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "20")
    return doors.client.run("curl", *status, "--cacert", CA, "--data", body, doors.url(host)).stdout


def call(doors: DoorHosts, host: Host, text: str) -> str:
    """Call the model through a host's door. Returns the name of the replica that answers."""
    words = (f"{host.name}:{GRPC_PORT}", CA, MODEL, text, "1")
    return doors.client.run("python", "-c", CALL, *words).stdout.strip()


@pytest.mark.parametrize("peers", [True, False], ids=["peers", "without"])
def test_payload_passes_between_hosts_in_clear_only_without_peers(build: Build, peers: bool) -> None:
    with build(["door1", "door2"], peers=peers) as doors:
        near, far = doors.hosts
        doors.start_replica(far)
        doors.await_replicas(1)
        captures = [host.start("python", "-m", "tests.hosts.capture", MARKER, LAST) for host in doors.hosts]
        for capture in captures:
            until(lambda capture=capture: "ready" in capture.output, "the capture runs", 20)
        for host in (near, far):
            for body in (MARKER, MARKER * 3000):
                assert send(doors, host, body) == OK
            assert call(doors, host, MARKER) == MODEL
        if not peers:
            for capture in captures:
                until(lambda capture=capture: capture.output.count(MARKER) >= 3, "the payload is seen", 20)
        else:
            near.run("bash", "-c", f"echo {LAST} >/dev/udp/{far.address}/9")
            for capture in captures:
                until(lambda capture=capture: LAST in capture.output, "the last packet is seen", 20)
            seen = sum(capture.output.count(MARKER) for capture in captures)
            add_figure("payload between hosts, HTTP and gRPC", "packets with it in clear", seen, "=")
            assert seen == 0


def test_only_doors_reach_replicas_of_another_host(build: Build, client: Host) -> None:
    with build(["door1", "door2"], peers=True) as doors:
        far = doors.hosts[1]
        doors.start_replica(far)
        doors.await_replicas(1)
        direct = client.run("bash", "-c", f"exec 3<>/dev/tcp/{far.name}/{REPLICA_PORT}", check=False)
        assert "refused" in direct.stderr
        url = f"https://{far.name}:{PEER_PORT}/-/healthz"
        own = doors.hosts[0].path("/srv/tls/door.pem").read_text()
        client.write("/srv/door.pem", own)
        ask = ("curl", "--silent", "--cacert", CA, "--output", "/dev/null", "--write-out", "%{http_code}", url)
        assert client.run(*ask, "--cert", "/srv/door.pem").stdout == OK
        stranger = client.run(*ask, check=False)
        assert (stranger.returncode != 0, stranger.stdout) == (True, "000")
        # A port that no replica has ends without an answer: the door that sent the request may send it elsewhere.
        other = (*ask[:-1], f"https://{far.name}:{PEER_PORT + 1}/-/healthz", "--cert", "/srv/door.pem")
        assert client.run(*other, check=False).stdout == "000"


def test_replica_that_drains_or_is_killed_leaves_doors_of_other_hosts(build: Build) -> None:
    with build(["door1", "door2"], peers=True) as doors:
        near, far = doors.hosts
        processes = [doors.start_replica(far, number) for number in range(3)]
        doors.await_replicas(3)
        plan = LoadPlan(doors.url(near), rate=100.0, authority=CA, timeout_s=20.0)
        load = Load(doors.client, plan)
        load.wait_for(OK)
        processes[0].send_signal(signal.SIGUSR1)
        left = Target(host=far.address, port=PEER_PORT)
        until(lambda: left not in doors.taking(near), "the one that drains leaves", 10)
        processes[1].stop(signal.SIGKILL)
        last = Target(host=far.address, port=PEER_PORT + 2)
        until(lambda: doors.taking(near) == {last}, "the one that was killed leaves", 10)
        load.wait_for(OK)
        account = load.finish()
        assert (account.missing, account.failed, set(account.answered)) == (0, {}, {OK})


@contextmanager
def undisturbed_load(build: Build, work: str) -> Iterator[tuple[DoorHosts, Load]]:
    """A load through one host's door to a replica on the other; no request fails, and no HAProxy starts again."""
    with build(["door1", "door2"], peers=True) as doors:
        near, far = doors.hosts
        doors.start_replica(far)
        doors.await_replicas(1)
        pids = doors.haproxies()
        load = Load(doors.client, LoadPlan(doors.url(near), rate=100.0, authority=CA, timeout_s=20.0))
        load.wait_for(OK)
        yield doors, load
        account = load.finish()
        failed = account.missing + sum(account.failed.values())
        add_figure(work, "failed requests", failed, "=", note=f"of {len(account.records):,}")
        assert (account.missing, account.failed, set(account.answered)) == (0, {}, {OK})
        assert doors.haproxies() == pids


def test_certificates_of_all_doors_are_replaced_without_a_lost_request(build: Build) -> None:
    with undisturbed_load(build, "8 certificates of two hosts' doors replaced at 100 requests/s") as (doors, load):
        for _ in range(4):
            for host in doors.hosts:
                content = doors.renew_certificate(host)
                until(lambda each=host, pem=content: doors.uses_certificate(each, pem), "it is in use", 20)
            load.wait_for(OK, 30)


@pytest.mark.parametrize("peers", [True, False], ids=["peers", "without"])
def test_killed_host_is_out_of_rotation_within_two_seconds(build: Build, peers: bool) -> None:
    with build(["door1", "door2", "door3"], peers=peers) as doors:
        door, killed, left = doors.hosts
        for host in (killed, left):
            doors.start_replica(host)
        doors.await_replicas(2)
        load = Load(doors.client, LoadPlan(doors.url(door), rate=200.0, authority=CA, timeout_s=20.0))
        load.wait_for(OK, 100)
        begin = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(killed.kill)
            until(lambda: len(doors.taking(door)) == 1, "the killed host is out of rotation", 20)
            out_s = time.monotonic() - begin
        load.wait_for(OK, 100)
        account = load.finish()
        work = f"host killed at 200 requests/s, {'TLS' if peers else 'clear'} between doors"
        failed = account.missing + sum(account.failed.values())
        add_figure(work, "s until it is out of rotation", out_s, "≤", OUT_S)
        note = f"of {len(account.records):,}; the slowest took {account.latency_s(1.0):.2f} s"
        add_figure(work, "failed requests", failed, "=", note=note)
        assert (account.missing, account.failed, set(account.answered)) == (0, {}, {OK})
        assert out_s <= OUT_S


@pytest.mark.skipif(not clock.available(), reason=f"{clock.COMPILER} is not installed")
def test_clocks_that_step_fail_no_request(build: Build) -> None:
    with undisturbed_load(build, "clocks of two doors' hosts ± 1 h at 100 requests/s") as (doors, load):
        for host in doors.hosts:
            for offset_s in (STEP_S, -STEP_S, 0):
                host.step_clock(offset_s)
                load.wait_for(OK, 200)


def test_killed_host_fails_no_grpc_call(build: Build) -> None:
    with build(["door1", "door2", "door3"], peers=True) as doors:
        door, killed, left = doors.hosts
        for host in (killed, left):
            doors.start_replica(host)
        doors.await_replicas(2)
        words = (f"{door.name}:{GRPC_PORT}", CA, MODEL, "text", "300")
        calls = doors.client.start("python", "-c", CALL, *words)
        until(lambda: MODEL in calls.output, "calls are answered", 60)
        killed.kill()
        assert calls.wait(60) == 0, calls.output
        assert calls.output.split() == [MODEL] * 300


def test_request_that_kills_replicas_of_another_host_is_repeated_once(build: Build) -> None:
    with build(["door1", "door2"], peers=True) as doors:
        near, far = doors.hosts
        for number in range(3):
            doors.start_replica(far, number)
        doors.await_replicas(3)
        url = doors.url(near).replace("/infer", "/die")
        answer = doors.client.run("curl", "--silent", "--cacert", CA, "--max-time", "20", "--data", "{}", url)
        assert json.loads(answer.stdout)["code"] == "request.no_answer"
        until(lambda: len(doors.taking(near)) == 1, "one replica is left", 20)
        assert send(doors, near, "{}") == OK


def test_door_of_a_node_outlives_its_raylet_and_ends_with_ray_stop(build: Build) -> None:
    with build(["door1", "door2"], peers=True, nodes=True) as doors:
        near, far = doors.hosts
        doors.start_replica(far)
        doors.await_replicas(1)
        pids, first = doors.haproxies(), near.run("pidof", "raylet").stdout
        load = Load(doors.client, LoadPlan(doors.url(near), rate=100.0, authority=CA, timeout_s=20.0))
        load.wait_for(OK)
        near.run("kill", "-9", first.strip())
        until(lambda: near.run("pidof", "raylet", check=False).stdout not in ("", first), "another raylet runs", 60)
        load.wait_for(OK, 50)
        account = load.finish()
        assert (account.missing, account.failed, set(account.answered)) == (0, {}, {OK})
        assert doors.haproxies() == pids
        near.run("ray", "stop")
        until(lambda: doors.haproxies() == [0, pids[1]], "the door has ended", 30)
        rest = ("pgrep", "--full", "cluster.door|ray::|haproxy")
        until(lambda: near.run(*rest, check=False).stdout == "", "its supervisors have ended", 30)
