"""Which replicas answer for which model, as Serve's controller publishes it. Pure.

Serve's word adds replicas at once. It removes one only when the replica itself no longer answers its health check, or
after a while: a controller that comes back after the head was lost lists replicas one by one, and those that it has
not found yet still serve. A replica that Serve drains fails its check at once, and still answers what it gets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Set
from ipaddress import ip_address
from itertools import chain
from typing import Any

from pydantic import Field

from cluster.door.moves import Moves, second_key, share_key, share_parts
from cluster.values import Frozen, Stored

ROOT_ROUTE = "/v2"
ANY_MODEL = "*"
"""Key of the map for calls that name no model that is served."""
ABSENT_S = 30.0
"""Seconds after which a replica that Serve, which answers, does not list is removed although it answers its check."""
# For an application without a running replica Serve lists its own proxies.
_REPLICA_NAME = "SERVE_REPLICA::"
_MODEL_ROUTE = re.compile(r"/v2/models/([A-Za-z0-9_.-]+)")


class Target(Frozen):
    """An address that a replica listens on."""

    host: str
    port: int

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Replica(Frozen):
    """A replica that takes requests from outside, at the addresses where this host's door reaches it."""

    http: Target
    grpc: Target | None = None
    peer: bool = False
    """Whether these are addresses of the door of its host, which takes them with TLS from doors only."""


class PeerLink(Frozen):
    """Where the doors of other hosts take what is for their replicas: each port of a replica has one there."""

    offset: int
    """What to add to the port of a replica."""
    own_addresses: frozenset[str]
    """Addresses of this host, whose replicas need no other door."""


class Membership(Stored, stored_as="membership of the door"):
    """All replicas behind the door."""

    root: tuple[Replica, ...] = ()
    """Those of the root application, which answers for paths outside of models."""
    models: Mapping[str, tuple[Replica, ...]] = Field(default_factory=dict)
    moves: Moves = Moves()
    root_known: bool = Field(default=True, exclude=True)
    """False: Serve lists no root application, whose configuration has the moves."""
    second: Mapping[str, tuple[Replica, ...]] = Field(default_factory=dict)
    """Replicas in the second cluster, of the models that move there."""

    @property
    def by_key(self) -> dict[str, tuple[Replica, ...]]:
        """Replicas of each pool's key in the map; the first cluster's come first where there is too little room."""
        first = {model: self.models[model] for model in sorted(self.models)}
        return first | {second_key(model): self.second[model] for model in sorted(self.second)}

    def share_entries(self, pools: Mapping[str, int]) -> dict[str, int]:
        """Return the map's entries of shares, for models with a pool of the second cluster."""
        shares = sorted(self.moves.shares.items())
        return {share_key(model): share_parts(share) for model, share in shares if second_key(model) in pools}

    def remote_targets(self) -> Iterator[Target]:
        """Yield the HTTP addresses that are not of the loopback interface."""
        for replica in (*self.root, *chain.from_iterable(self.by_key.values())):
            if not ip_address(replica.http.host).is_loopback:
                yield replica.http


class Absences:
    """Since when Serve has not listed replicas that were members."""

    def __init__(self) -> None:
        self._since: dict[Replica, float] = {}

    def settle(self, before: Membership, listed: Membership, healthy: Set[Target], now: float) -> Membership:
        """Return the members: those that are listed, and earlier ones that may be missing from the list by mistake.

        Args:
            before: The members so far.
            listed: What Serve lists. A controller that has just come back may list applications without their routes,
                and replicas one by one.
            healthy: HTTP addresses that pass the door's own check.
            now: Seconds through which Serve has answered. While it is away nothing is missing: what it listed last may
                be the first part of a list, by a controller that came back and was lost again.
        """
        kept: set[Replica] = set()

        def merge(old: tuple[Replica, ...], new: tuple[Replica, ...]) -> tuple[Replica, ...]:
            missing = [replica for replica in old if replica not in new and replica.http in healthy]
            held = [r for r in missing if now - self._since.setdefault(r, now) < ABSENT_S]
            kept.update(missing)
            return (*new, *held)

        names = sorted({*before.models, *listed.models})
        models = {name: merge(before.models.get(name, ()), listed.models.get(name, ())) for name in names}
        served = {name: replicas for name, replicas in models.items() if replicas or name in listed.models}
        moves = listed.moves if listed.root_known else before.moves
        root = merge(before.root, listed.root)
        members = Membership(root=root, models=served, moves=moves, second=listed.second)
        self._since = {replica: since for replica, since in self._since.items() if replica in kept}
        return members


def parse_serve_details(
    details: Mapping[str, Any], bound_to: str = "", peers: PeerLink | None = None
) -> Membership | None:
    """Read the answer of ``GET /api/serve/applications/``.

    Args:
        details: The answer.
        bound_to: Loopback address that replicas listen on; Serve lists the address of their node. Empty: they listen
            on that.
        peers: How to reach replicas of other hosts; None: as those of this one.

    Returns:
        The members; None when no controller wrote it, which says nothing about the replicas.

    Raises:
        DataError: A newer release wrote the moves.
    """
    if not details.get("controller_info", {}).get("actor_id"):
        return None

    def locate(target: Mapping[str, Any]) -> tuple[Target, bool]:
        host, port = target["ip"], target["port"]
        if peers is not None and host not in peers.own_addresses:
            return Target(host=host, port=port + peers.offset), True
        return Target(host=bound_to or host, port=port), False

    routes: dict[str, dict[str, dict[str, tuple[Target, bool]]]] = {
        app["route_prefix"]: {} for app in details["applications"].values() if app.get("route_prefix")
    }
    for group in details.get("target_groups", ()):
        if (targets := routes.get(group["route_prefix"])) is not None:
            for target in group["targets"]:
                if target["name"].startswith(_REPLICA_NAME):
                    targets.setdefault(target["name"], {})[group["protocol"]] = locate(target)
    models = {match[1]: _replicas(targets.values()) for route, targets in routes.items() if (match := _model(route))}
    root = _replicas(routes.get(ROOT_ROUTE, {}).values())
    declared = (app.get("deployed_app_config") or {} for app in details["applications"].values() if _is_root(app))
    moves = Moves.of_application(next(declared, {}))
    return Membership(root=root, models=models, moves=moves, root_known=ROOT_ROUTE in routes)


def _is_root(app: Mapping[str, Any]) -> bool:
    return app.get("route_prefix") == ROOT_ROUTE


def _model(route: str) -> re.Match[str] | None:
    return _MODEL_ROUTE.fullmatch(route)


def _replicas(targets: Iterable[Mapping[str, tuple[Target, bool]]]) -> tuple[Replica, ...]:
    found = [
        Replica(http=http, grpc=each["gRPC"][0] if "gRPC" in each else None, peer=peer)
        for each in targets
        if "HTTP" in each
        for http, peer in [each["HTTP"]]
    ]
    return tuple(sorted(found, key=lambda replica: (replica.http.host, replica.http.port)))
