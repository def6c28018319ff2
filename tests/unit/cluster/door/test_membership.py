from __future__ import annotations

import json
from typing import Any

from ray.serve.schema import (
    APIType,
    ApplicationDetails,
    ApplicationStatus,
    HTTPOptionsSchema,
    ServeActorDetails,
    ServeInstanceDetails,
    TargetGroup,
    gRPCOptionsSchema,
)
from ray.serve.schema import Target as TargetOfServe

from cluster.door.membership import ABSENT_S, Absences, Membership, PeerLink, Replica, Target, parse_serve_details
from cluster.door.membership_client import AnswerClock
from cluster.door.moves import Moves
from cluster.errors import DataError
from tests.factories.errors import raises

CONTROLLER = ServeActorDetails(actor_id="1")


def replica(number: int) -> Replica:
    return Replica(http=Target(host="10.0.0.1", port=number))


def group(route: str, protocol: str, *ports: int, name: str = "SERVE_REPLICA::") -> TargetGroup:
    targets = [TargetOfServe(ip="10.0.0.1", port=port, name=f"{name}{port % 100}", instance_id="") for port in ports]
    return TargetGroup(route_prefix=route, protocol=protocol, targets=targets)


def application(name: str, route: str | None) -> ApplicationDetails:
    return ApplicationDetails(
        name=name,
        route_prefix=route,
        docs_path=None,
        status=ApplicationStatus.RUNNING,
        message="",
        last_deployed_time_s=0.0,
        deployed_app_config=None,
        source=APIType.DECLARATIVE,
        deployments={},
        external_scaler_enabled=False,
    )


def details(applications: dict[str, str | None], groups: list[TargetGroup]) -> dict[str, Any]:
    """The answer of Serve's REST API."""
    written = ServeInstanceDetails(
        controller_info=CONTROLLER,
        http_options=HTTPOptionsSchema(),
        grpc_options=gRPCOptionsSchema(),
        proxy_location="HeadOnly",
        proxies={},
        applications={name: application(name, route) for name, route in applications.items()},
        target_groups=groups,
        target_capacity=None,
    )
    return json.loads(json.dumps(written._get_user_facing_json_serializable_dict(exclude_unset=True)))


def test_details_name_replicas_by_model() -> None:
    applications = {
        "flights": "/v2/models/flights",
        "shop": "/v2/models/shop",
        "rayloop-front": "/v2",
        "flights.challenger.1": None,
        "other": "/other",
    }
    groups = [
        group("/v2/models/flights", "HTTP", 30002, 30001),
        group("/v2/models/flights", "gRPC", 40001, 40002),
        # Serve's proxy stands in for an application without a replica.
        group("/v2/models/shop", "HTTP", 31000, name="SERVE_PROXY_ACTOR-"),
        group("/v2", "HTTP", 30003),
        group("/other", "HTTP", 30004),
    ]

    def target(port: int) -> Target:
        return Target(host="10.0.0.1", port=port)

    flights = tuple(Replica(http=target(30000 + n), grpc=target(40000 + n)) for n in (1, 2))
    assert parse_serve_details(details(applications, groups)) == Membership(
        root=(replica(30003),), models={"flights": flights, "shop": ()}
    )


def test_replicas_that_listen_on_the_loopback_address_are_found_there() -> None:
    listed = details({"flights": "/v2/models/flights"}, [group("/v2/models/flights", "HTTP", 30001)])
    local = Replica(http=Target(host="127.0.0.1", port=30001))
    assert parse_serve_details(listed, "127.0.0.1") == Membership(models={"flights": (local,)}, root_known=False)


def test_replicas_of_other_hosts_are_found_at_their_doors() -> None:
    routes = [group("/v2/models/flights", "HTTP", 30001), group("/v2/models/flights", "gRPC", 30501)]
    listed = details({"flights": "/v2/models/flights"}, routes)
    other = PeerLink(offset=1500, own_addresses=frozenset({"10.0.0.2"}))
    remote = Replica(http=Target(host="10.0.0.1", port=31501), grpc=Target(host="10.0.0.1", port=32001), peer=True)
    assert parse_serve_details(listed, "127.0.0.1", other) == Membership(
        models={"flights": (remote,)}, root_known=False
    )
    own = PeerLink(offset=1500, own_addresses=frozenset({"10.0.0.1"}))
    local = Replica(http=Target(host="127.0.0.1", port=30001), grpc=Target(host="127.0.0.1", port=30501))
    assert parse_serve_details(listed, "127.0.0.1", own) == Membership(models={"flights": (local,)}, root_known=False)


def test_details_without_a_controller_say_nothing() -> None:
    assert parse_serve_details(ServeInstanceDetails.get_empty_schema_dict()) is None
    assert parse_serve_details(details({}, [])) == Membership(root_known=False)


def test_moves_are_those_of_the_root_application() -> None:
    listed = details({"rayloop-front": "/v2", "flights": "/v2/models/flights"}, [])
    moves = Moves(address="http://10.0.0.9:8265", shares={"flights": 0.25}, writer=3)
    config = {"name": "Front", "user_config": moves.model_dump(mode="json") | {"later": 1}}
    listed["applications"]["rayloop-front"]["deployed_app_config"] = {"deployments": [config]}
    assert parse_serve_details(listed) == Membership(models={"flights": ()}, moves=moves)
    config["user_config"] = {"schema_version": 99}
    with raises(DataError, "data.stored_too_new"):
        parse_serve_details(listed)


def members(*numbers: int) -> Membership:
    return Membership(models={"a": tuple(map(replica, numbers))})


def test_replica_that_is_not_listed_stays_while_it_passes_its_check() -> None:
    absences, both = Absences(), {replica(1).http, replica(2).http}
    assert absences.settle(members(1, 2), members(1), both, 0.0) == members(1, 2)
    assert absences.settle(members(1, 2), members(1), both, ABSENT_S - 1.0) == members(1, 2)
    assert absences.settle(members(1, 2), members(1), both, ABSENT_S) == members(1)


def test_replica_that_drains_leaves_at_once() -> None:
    assert Absences().settle(members(1, 2), members(1), {replica(1).http}, 0.0) == members(1)


def test_listed_again_begins_anew() -> None:
    absences, both = Absences(), {replica(1).http, replica(2).http}
    absences.settle(members(1, 2), members(1), both, 0.0)
    absences.settle(members(1, 2), members(1, 2), both, 20.0)
    assert absences.settle(members(1, 2), members(1), both, 40.0) == members(1, 2)


def test_model_that_is_not_listed_stays_while_its_replicas_answer() -> None:
    absences = Absences()
    assert absences.settle(members(1), Membership(), {replica(1).http}, 0.0) == members(1)
    assert absences.settle(members(1), Membership(), {replica(1).http}, ABSENT_S) == Membership()
    assert Absences().settle(members(1), Membership(), set(), 0.0) == Membership()


def test_moves_stay_while_the_root_application_is_not_listed() -> None:
    moves, root = Moves().with_share("m", "http://next:8265", 0.5), (replica(1),)
    before = Membership(root=root, moves=moves)
    without = Membership(root_known=False)
    assert Absences().settle(before, without, {replica(1).http}, 0.0) == before
    assert Absences().settle(before, Membership(), set(), 0.0).moves == Moves()


def test_clock_of_answers_stands_still_while_serve_is_away() -> None:
    clock = AnswerClock()
    for now, answered in ((0.0, True), (1.0, True), (1.5, False), (40.0, False), (41.0, True)):
        clock.tick(now, answered)
    assert clock.seconds == 1.0
    clock.tick(43.0, True)
    assert clock.seconds == 3.0
