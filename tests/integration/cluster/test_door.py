"""The door with the real HAProxy, before replicas that are not real."""

from __future__ import annotations

import os
import random
import signal
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from benchmarks.cluster.certificates import self_signed
from benchmarks.cluster.door_process import running_door
from benchmarks.cluster.load import SteadyLoad
from benchmarks.cluster.replicas import MODEL
from cluster.settings import Settings
from tests.factories.door import DoorSetup, grpc_replica
from tests.factories.until import until


def test_door_answers_v2_only(setup: DoorSetup) -> None:
    root, replica = setup.start_replica("root"), setup.start_replica("model")
    setup.serve.root = [root.replica]
    setup.serve_model(replica)
    get = setup.client.get
    until(lambda: get("/v2").status_code == 200, "the root application answers")
    assert get("/v2").json()["replica"] == "root"
    assert get(f"/v2/models/{MODEL}/ready").json()["replica"] == "model"
    assert get("/v2/models/unlisted").json()["replica"] == "root"
    assert get("/v2/health/ready").json() == {"ready": True}
    assert setup.client.head("/v2/health/live").status_code == 200
    for path in ("/", "/-/healthz", "/-/routes", "/metrics", "/v2x", "/V2"):
        response = get(path)
        assert (response.status_code, response.json()["code"]) == (404, "request.outside_v2")


def test_killed_haproxy_costs_requests_in_flight_only(setup: DoorSetup) -> None:
    setup.serve_model(setup.start_replica(), setup.start_replica())
    with SteadyLoad(setup.loop, setup.port, rate=200.0) as load:
        load.await_answers(200)
        killed = setup.door.haproxy
        os.kill(killed, signal.SIGKILL)
        until(lambda: setup.door.haproxy not in (0, killed), "HAProxy runs again")
        load.await_answers(200)
    assert load.longest_gap_s < 1.0
    assert len(load.failed) < 40


def test_killed_supervisor_and_standby_cost_nothing(setup: DoorSetup) -> None:
    setup.serve_model(setup.start_replica())
    haproxy = setup.door.haproxy
    with SteadyLoad(setup.loop, setup.port, rate=200.0) as load:
        load.await_answers(100)
        for _ in range(2):
            until(lambda: len(setup.door.supervisors) == 2, "a supervisor and its standby")
            setup.kill_leader()
        # The new supervisor follows the membership.
        setup.serve_model(setup.start_replica(), setup.start_replica())
        load.await_answers(100)
    assert load.failed == []
    assert setup.door.haproxy == haproxy


def test_haproxy_killed_after_its_supervisor_answers_again(setup: DoorSetup) -> None:
    setup.serve_model(setup.start_replica())
    with SteadyLoad(setup.loop, setup.port, rate=200.0) as load:
        load.await_answers(100)
        leader, haproxy = setup.door.leader, setup.door.haproxy
        os.kill(leader, signal.SIGKILL)
        os.kill(haproxy, signal.SIGKILL)
        until(lambda: setup.door.haproxy not in (0, haproxy), "HAProxy runs again")
        load.await_answers(200)
    assert load.longest_gap_s < 5.0


def test_door_that_is_stopped_answers_what_is_in_progress(setup: DoorSetup) -> None:
    setup.serve_model(replica := setup.start_replica())
    processes = [setup.door.haproxy, *setup.door.supervisors]
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(setup.client.get, f"/v2/models/{MODEL}/sleep/2")
        until(lambda: replica.in_progress, "the request is in progress")
        os.kill(setup.door.leader, signal.SIGTERM)
        assert answer.result().status_code == 200
    until(lambda: not any(map(psutil.pid_exists, processes[:1] + processes[2:])), "all have ended", 20.0)
    assert setup.door.process.wait(20.0) == 0
    with pytest.raises(httpx.ConnectError):
        setup.client.get("/v2")


def test_new_supervisor_takes_over_when_both_are_gone(setup: DoorSetup) -> None:
    setup.serve_model(setup.start_replica())
    haproxy = setup.door.haproxy
    until(lambda: len(setup.door.supervisors) == 2, "a supervisor and its standby")
    leader, standby = setup.door.supervisors
    os.kill(standby, signal.SIGSTOP)
    os.kill(leader, signal.SIGKILL)
    os.kill(standby, signal.SIGKILL)
    setup.door.process.wait(20.0)
    assert setup.client.get(f"/v2/models/{MODEL}").status_code == 200
    setup.door.start_again()
    setup.serve_model(setup.start_replica(), setup.start_replica())
    assert setup.door.haproxy == haproxy
    # It has no listening sockets of its own until HAProxy ends.
    os.kill(haproxy, signal.SIGKILL)
    until(lambda: setup.door.haproxy not in (0, haproxy), "HAProxy runs again")
    assert setup.client.get(f"/v2/models/{MODEL}").status_code == 200


def test_changes_of_members_fail_no_request_and_reload_nothing(setup: DoorSetup) -> None:
    rng = random.Random(7)
    replicas = [setup.start_replica(f"r{i}") for i in range(3)]
    setup.serve_model(*replicas)
    haproxy, leaving = setup.door.haproxy, []
    with SteadyLoad(setup.loop, setup.port, rate=100.0, long_every=50, long_s=3.0) as load:
        for change in range(25):
            if len(replicas) > 1 and rng.random() < 0.5:
                gone = replicas.pop(rng.randrange(len(replicas)))
                leaving.append(gone)
                gone.leaving = True
            elif len(replicas) < 4:
                replicas.append(setup.start_replica(f"c{change}"))
            setup.serve.models[MODEL] = [replica.replica for replica in replicas]
            load.await_answers(rng.randrange(5, 60))
        setup.serve_model(*replicas)
    assert load.failed == []
    assert setup.door.haproxy == haproxy
    assert sum(replica.requests for replica in leaving) > 0


def test_head_that_is_away_leaves_the_members(setup: DoorSetup) -> None:
    first, second = setup.start_replica("first"), setup.start_replica("second")
    setup.serve_model(first, second)
    setup.serve.away = True
    os.kill(setup.door.haproxy, signal.SIGKILL)
    until(lambda: setup.door.haproxy and len(setup.door.taking()) == 2, "both replicas are in service again")
    # A controller that comes back lists replicas one by one.
    setup.serve.models[MODEL] = []
    setup.serve.away = False
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        assert setup.client.get(f"/v2/models/{MODEL}").status_code == 200
    assert setup.door.taking() == {first.port, second.port}
    second.leaving = True
    until(lambda: setup.door.taking() == {first.port}, "the one that drains leaves")


def test_request_that_kills_a_replica_is_repeated_once(setup: DoorSetup) -> None:
    replicas = [setup.start_replica(f"r{i}") for i in range(3)]
    setup.serve_model(*replicas)
    response = setup.client.post(f"/v2/models/{MODEL}/die", json={})
    assert (response.status_code, response.json()["code"]) == (502, "request.no_answer")
    assert sum(replica.requests for replica in replicas) == 2
    assert setup.client.get(f"/v2/models/{MODEL}").status_code == 200


def test_request_that_a_replica_has_no_room_for_is_sent_to_another_once(setup: DoorSetup) -> None:
    full, other = setup.start_replica("full"), setup.start_replica("other")
    setup.serve_model(full, other)
    full.full = True
    answers = [setup.client.post(f"/v2/models/{MODEL}/infer", json={}) for _ in range(20)]
    assert {(answer.status_code, answer.json()["replica"]) for answer in answers} == {(200, "other")}
    assert full.requests > 0
    other.full, full.requests, other.requests = True, 0, 0
    response = setup.client.post(f"/v2/models/{MODEL}/infer", json={})
    # A replica's own answer, not the door's.
    assert (response.status_code, response.text in ("full", "other")) == (503, True)
    assert (full.requests, other.requests) == (1, 1)
    assert setup.door.taking() == {full.port, other.port}


def test_certificates_are_replaced_without_a_lost_request(door_settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "door.pem"
    file.write_text(self_signed())
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    with running_door(door_settings.model_copy(update={"door_certificate": str(file)})) as (door, serve, loop):
        setup = DoorSetup(door, serve, loop)
        setup.serve_model(setup.start_replica(), setup.start_replica())
        haproxy = door.haproxy
        address = ("127.0.0.1", setup.port)
        with SteadyLoad(loop, setup.port, rate=100.0, ssl=trusting, connect_every=2) as load:
            for _ in range(5):
                load.await_answers(20)
                # A file that is half written is refused, and the certificate before it stays.
                file.write_text(self_signed()[:300])
                load.await_answers(60)
                file.write_text(content := self_signed())
                until(lambda: content.startswith(ssl.get_server_certificate(address)), "the new one is in use")
        assert load.failed == []
        assert door.haproxy == haproxy
        os.kill(haproxy, signal.SIGKILL)
        until(lambda: door.haproxy not in (0, haproxy), "HAProxy runs again")
        assert content.startswith(ssl.get_server_certificate(address))
        setup.client.close()


def test_public_grpc_client_reaches_the_model_that_its_request_names(setup: DoorSetup) -> None:
    with grpc_replica("flights") as flights, grpc_replica("shop") as shop:
        http = [setup.start_replica(), setup.start_replica()]
        setup.serve.models = {
            MODEL: [http[0].replica.model_copy(update={"grpc": flights})],
            "shop": [http[1].replica.model_copy(update={"grpc": shop})],
        }
        until(lambda: len(setup.door.taking()) == 2, "both models are in service")
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{setup.door.settings.grpc_port}") as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            for model in (MODEL, "shop"):
                assert client.is_model_ready(model)
                assert client.get_model_metadata(model).platform == model
                # Beyond the door's buffers, and with the metadata of clients that know Serve.
                for rows in (1, 100_000):
                    values = triton_grpc.InferInput("x", [rows], "FP64")
                    values.set_data_from_numpy(np.zeros(rows))
                    for headers in ({}, {"application": "another"}):
                        answer = client.infer(model, [values], headers=headers).get_response()
                        assert (answer.model_version, answer.id) == (model, "None")
            with pytest.raises(InferenceServerException, match="compressed") as caught:
                client.infer(MODEL, [values], compression_algorithm="gzip")
            assert "UNIMPLEMENTED" in caught.value.status()


def test_metrics_tell_of_a_supervisor_and_of_replicas_but_not_of_empty_slots(setup: DoorSetup) -> None:
    setup.serve_model(setup.start_replica())
    address = f"http://127.0.0.1:{setup.door.settings.haproxy_metrics_port}"
    status = dict(line.rsplit(" ", 1) for line in httpx.get(f"{address}/status").text.splitlines() if line[0] != "#")
    assert abs(float(status["rayloop_door_supervised_timestamp_seconds"]) - time.time()) < 30.0
    assert status['rayloop_door_certificate_expiry_timestamp_seconds{certificate="public"}'] == "NaN"
    metrics = httpx.get(f"{address}/metrics", params={"no-maint": ""}).text
    assert 'haproxy_server_current_sessions{proxy="m1",server="r0"}' in metrics
    assert 'server="r1"' not in metrics


def test_slow_headers_and_slow_bodies_are_cut_off(setup: DoorSetup) -> None:
    unfinished = [b"POST /v2/models/x HTTP/1.1\r\n", b"POST /v2 HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n1"]
    connections = [socket.create_connection(("127.0.0.1", setup.port), timeout=30.0) for _ in unfinished]
    started = time.monotonic()
    for connection, sent in zip(connections, unfinished, strict=True):
        connection.sendall(sent)
    for connection in connections:
        with connection, connection.makefile("rb") as answer:
            assert b" 408 " in answer.read().split(b"\r\n")[0]
    assert 5.0 < time.monotonic() - started < 25.0
