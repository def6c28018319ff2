from __future__ import annotations

from typing import Any

from cluster.door.membership import ABSENT_S, Absences, Membership, Replica, Target, parse_serve_details

CONTROLLER = {"actor_id": "1"}


def replica(number: int) -> Replica:
    return Replica(http=Target(host="10.0.0.1", port=number))


def group(route: str, protocol: str, *ports: int) -> dict[str, Any]:
    targets = [{"ip": "10.0.0.1", "port": port, "name": f"r{port % 100}", "instance_id": ""} for port in ports]
    return {"route_prefix": route, "protocol": protocol, "targets": targets}


def test_details_name_replicas_by_model() -> None:
    details = {
        "controller_info": CONTROLLER,
        "applications": {
            "flights": {"route_prefix": "/v2/models/flights"},
            "shop": {"route_prefix": "/v2/models/shop"},
            "rayloop-front": {"route_prefix": "/v2"},
            "flights.challenger.1": {"route_prefix": None},
            "other": {"route_prefix": "/other"},
        },
        "target_groups": [
            group("/v2/models/flights", "HTTP", 30002, 30001),
            group("/v2/models/flights", "gRPC", 40001, 40002),
            group("/v2", "HTTP", 30003),
            group("/other", "HTTP", 30004),
        ],
    }
    target = lambda port: Target(host="10.0.0.1", port=port)  # noqa: E731
    assert parse_serve_details(details) == Membership(
        root=(replica(30003),),
        models={
            "flights": tuple(Replica(http=target(30000 + n), grpc=target(40000 + n)) for n in (1, 2)),
            "shop": (),
        },
    )


def test_details_without_a_controller_say_nothing() -> None:
    assert parse_serve_details({"controller_info": {}, "applications": {}}) is None
    assert parse_serve_details({"controller_info": CONTROLLER, "applications": {}}) == Membership()


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


def test_model_that_is_not_listed_leaves_with_its_replicas() -> None:
    assert Absences().settle(members(1), Membership(), {replica(1).http}, 0.0) == Membership()
