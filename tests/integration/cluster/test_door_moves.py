"""A door that moves requests to a second cluster and back, with the real HAProxy, before replicas that are not real."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import defaultdict

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from benchmarks.cluster.load import SteadyLoad
from benchmarks.cluster.replicas import MODEL, FakeReplica, FakeServe
from cluster.door.moves import CLUSTER_HEADER, Moves, share_key, share_parts
from cluster.door.probe import answering_cluster
from tests.factories.door import DoorSetup, grpc_replica
from tests.factories.until import until


class TwoClusters:
    """Replicas of the same model in two clusters, behind the door of the first."""

    def __init__(self, setup: DoorSetup) -> None:
        self.setup, self.serve = setup, setup.serve
        self.second: FakeServe = setup.loop.run(FakeServe().start())
        self.old, self.new = ([setup.start_replica(name) for _ in range(2)] for name in ("first", "second"))
        setup.serve_model(*self.old)
        self.second.models[MODEL] = [replica.replica for replica in self.new]

    def move(self, share: float) -> None:
        """Wish for a share, and wait until the door has it."""
        self.serve.moves = Moves().with_share(MODEL, self.second.address, share)
        ports = {replica.port for replica in self.new}

        def done() -> bool:
            held = self.setup.door.admin.held()
            return held.shares == {share_key(MODEL): share_parts(share)} and ports <= self.setup.door.taking()

        until(done, f"the door moves {share:.0%}")

    def ask(self, **headers: str) -> tuple[str, str]:
        """Which replica answers, and which cluster that is, by the door."""
        answer = self.setup.client.post(f"/v2/models/{MODEL}/infer", json={}, headers=headers)
        assert answer.status_code == 200
        return answer.json()["replica"], answer.headers.get(CLUSTER_HEADER, "")

    def kill(self, replicas: list[FakeReplica]) -> None:
        for replica in replicas:
            self.setup.loop.run(replica.kill())


@pytest.fixture
def clusters(setup: DoorSetup) -> TwoClusters:
    return TwoClusters(setup)


def test_share_grows_key_by_key_and_ends_within_a_second(clusters: TwoClusters) -> None:
    setup, phases = clusters.setup, {}
    haproxy = setup.door.haproxy
    with SteadyLoad(setup.loop, setup.port, rate=200.0, keys=100) as load:
        load.await_answers(100)
        for share in (0.0, 0.1, 0.5, 1.0):
            clusters.move(share)
            start = len(load.outcomes) + 20
            load.await_answers(320)
            phases[share] = load.outcomes[start:]
        clusters.serve.moves = Moves()
        back = time.monotonic()
        load.await_answers(400)
    assert load.failed == []
    assert setup.door.haproxy == haproxy
    for share, outcomes in phases.items():
        keys = {outcome.key for outcome in outcomes if outcome.cluster == "second"}
        assert abs(len(keys) / 100 - share) < 0.15
        # All requests of a key go where it is.
        assert not keys & {outcome.key for outcome in outcomes if outcome.cluster != "second"}
    by_key = defaultdict(list)
    for outcome in sorted(load.outcomes, key=lambda each: each.sent):
        if outcome.sent < back:
            by_key[outcome.key].append(outcome.cluster == "second")
    assert all(moved == sorted(moved) for moved in by_key.values())
    assert max(outcome.sent for outcome in load.outcomes if outcome.cluster == "second") - back < 1.0


def test_cluster_without_replicas_leaves_its_keys_to_the_other(clusters: TwoClusters) -> None:
    setup = clusters.setup
    clusters.move(1.0)
    with SteadyLoad(setup.loop, setup.port, rate=100.0, keys=10) as load:
        load.await_answers(100)
        clusters.kill(clusters.new)
        killed = time.monotonic()
        load.await_answers(300)
    # What was in flight, and what made HAProxy notice.
    assert len(load.failed) <= 10
    assert all(outcome.sent - killed < 1.0 for outcome in load.failed)
    assert load.outcomes[-1].cluster == "first"
    clusters.new = [setup.start_replica("second") for _ in range(2)]
    clusters.second.models[MODEL] = [replica.replica for replica in clusters.new]
    clusters.move(0.1)
    # The model is deleted in the first cluster.
    clusters.serve.models = {}
    for replica in clusters.old:
        replica.leaving = True
    until(lambda: {clusters.ask(**{"x-rayloop-key": str(i)})[0] for i in range(50)} == {"second"}, "the second answers")


def test_second_cluster_that_is_away_keeps_its_replicas(clusters: TwoClusters) -> None:
    clusters.move(1.0)
    clusters.second.away = True
    killed = clusters.setup.door.haproxy
    os.kill(killed, signal.SIGKILL)
    until(lambda: clusters.setup.door.haproxy not in (0, killed), "HAProxy runs again")
    assert clusters.ask() == ("second", "second")
    clusters.setup.kill_leader()
    assert clusters.ask() == ("second", "second")


def test_key_is_that_of_rollouts(clusters: TwoClusters) -> None:
    clusters.move(0.5)
    post, path = clusters.setup.client.post, f"/v2/models/{MODEL}/infer"
    sides: dict[str, str] = {}
    for i in range(40):
        key = f"k{i}"
        answers = [
            post(path, json={}, headers={"x-rayloop-key": key, "x-request-id": "other"}),
            post(path, json={"id": key, "inputs": [1.0] * 20_000}, headers={"x-request-id": "other"}),
            post(path, json={"inputs": [{"id": "x"}], "id": key}),
            post(path, content=json.dumps({"id": key}).encode() + bytes(1000)),
            post(path, json={}, headers={"x-request-id": key}),
        ]
        (sides[key],) = {answer.headers[CLUSTER_HEADER] for answer in answers}
    assert set(sides.values()) == {"first", "second"}
    # Without a key, each request by itself.
    assert {clusters.ask()[1] for _ in range(40)} == {"first", "second"}


def test_request_may_name_the_cluster_that_answers(clusters: TwoClusters) -> None:
    assert clusters.ask(**{CLUSTER_HEADER: "second"}) == ("first", "")
    for share in (0.0, 1.0):
        clusters.move(share)
        for name in ("first", "second"):
            assert clusters.ask(**{CLUSTER_HEADER: name}) == (name, name)
            assert answering_cluster(clusters.setup.door.settings, MODEL, name) == name
    for reserved in ("+flights", "%25flights"):
        assert clusters.setup.client.get(f"/v2/models/{reserved}").json()["code"] == "request.no_replica"


def test_grpc_moves_by_the_same_keys(clusters: TwoClusters) -> None:
    with grpc_replica("first") as old, grpc_replica("second") as new:
        ports = set()
        for serve, target in ((clusters.serve, old), (clusters.second, new)):
            http = clusters.setup.start_replica("first" if target == old else "second")
            serve.models[MODEL] = [http.replica.model_copy(update={"grpc": target})]
            ports.add(http.port)
        for replica in (*clusters.old, *clusters.new):
            replica.leaving = True
        clusters.new = []
        clusters.move(0.5)
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{clusters.setup.door.settings.grpc_port}") as client:
            values = triton_grpc.InferInput("x", [20_000], "FP64")
            values.set_data_from_numpy(np.zeros(20_000))

            def ask(id: str, **headers: str) -> str:
                return str(client.infer(MODEL, [values], request_id=id, headers=headers).get_response().model_version)

            # The others have no gRPC: a call that comes to one of them fails.
            until(lambda: clusters.setup.door.taking() == ports, "only these replicas take requests")
            for name in ("first", "second"):
                assert ask("", **{CLUSTER_HEADER: name}) == name
            for i in range(20):
                _, http = clusters.ask(**{"x-rayloop-key": f"k{i}"})
                assert ask(f"k{i}") == ask("other", **{"x-rayloop-key": f"k{i}"}) == http


def test_door_goes_over_to_the_second_cluster(clusters: TwoClusters) -> None:
    setup, door = clusters.setup, clusters.setup.door
    clusters.move(1.0)
    haproxy = door.haproxy
    until(lambda: len(door.supervisors) == 2, "a supervisor and its standby")
    with SteadyLoad(setup.loop, setup.port, rate=100.0, keys=10) as load:
        load.await_answers(50)
        for pid in reversed(door.supervisors):
            os.kill(pid, signal.SIGKILL)
        door.process.wait(20.0)
        door.settings = door.settings.model_copy(update={"address": clusters.second.address})
        door.start_again()
        until(lambda: not door.admin.held().shares, "the second cluster is the door's own")
        until(lambda: door.taking() == {replica.port for replica in clusters.new}, "its replicas are the only ones")
        before = sum(replica.requests for replica in clusters.old)
        load.await_answers(100)
    assert load.failed == []
    assert door.haproxy == haproxy
    assert sum(replica.requests for replica in clusters.old) == before
