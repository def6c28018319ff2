"""Wishes for moves, and the rules that HAProxy follows."""

from __future__ import annotations

from pathlib import Path

from cluster.door.config import DoorConfig, assign_pools, render_map
from cluster.door.membership import Membership, Replica, Target
from cluster.door.move_rules import HTTP_KEYS, move_rules, pool_rule
from cluster.door.moves import Moves
from cluster.errors import RayloopError
from tests.factories.errors import raises

SECOND = "http://10.0.0.9:8265"


def replica(port: int) -> Replica:
    return Replica(http=Target(host="127.0.0.1", port=port))


def test_models_move_one_by_one_to_one_cluster() -> None:
    moves = Moves(writer=3).with_share("a", SECOND, 0.1).with_share("b", SECOND, 1.0).with_share("a", SECOND, 0.5)
    assert moves == Moves(address=SECOND, shares={"a": 0.5, "b": 1.0}, writer=3)
    with raises(RayloopError, "rayloop.move_elsewhere", models=["b"]):
        moves.with_share("a", "http://10.0.0.8:8265", 0.1)
    assert moves.without("b") == Moves(address=SECOND, shares={"a": 0.5}, writer=3)
    assert moves.without("b").without("a") == Moves(writer=3)
    # The last one may change the cluster.
    assert moves.without("b").with_share("a", "http://10.0.0.8:8265", 0.1).address == "http://10.0.0.8:8265"


def test_earlier_membership_without_moves_is_read() -> None:
    stored = Membership(models={"a": (replica(1),)}).model_dump(exclude={"moves", "second"})
    assert Membership.from_stored(stored) == Membership(models={"a": (replica(1),)})


def test_map_at_the_start_holds_pools_of_both_clusters_and_shares(tmp_path: Path) -> None:
    config = DoorConfig(folder=tmp_path, http_fd=0, grpc_fd=0, metrics_port=1, pools=4)
    members = Membership(
        models={"b": (replica(1),), "a": ()},
        moves=Moves(address=SECOND, shares={"b": 0.25, "c": 1.0}),
        second={"b": (replica(2),), "c": ()},
    )
    pools = assign_pools(members, config)
    # No pool is left for c, which keeps its share out as well.
    assert render_map(pools, members) == "a 1\nb 2\n+b 3\n* 2\n%b 2500\n"


def test_reserved_names_reach_no_pool_and_random_keys_come_last() -> None:
    assert "!{ var(txn.model) -m beg + % }" in pool_rule("/map")
    rules = move_rules("m", "/map", HTTP_KEYS).splitlines()
    keys = [line.split()[2] for line in rules if "set-var(txn.key)" in line]
    assert keys == [*HTTP_KEYS, "uuid"]
