"""What HAProxy holds, read from its admin socket, and the commands that make it hold something else. Pure."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Set
from enum import Enum
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

from cluster.door.config import ROOT_POOL, UNUSED
from cluster.door.membership import ANY_MODEL, Membership, Replica, Target
from cluster.door.moves import is_share

SHOW_STATES, SHOW_REQUESTS = "show servers state", "show stat -1 4 -1"
# Bits of srv_admin_state: maintenance and draining, each by a command or by the server that is tracked.
_MAINTENANCE, _DRAIN = 0x03, 0x18
_RUNNING = "2"
_COLUMNS = ("be_name", "srv_name", "srv_addr", "srv_port", "srv_admin_state", "srv_op_state", "srv_use_ssl")
Key = tuple[int, int]
"""Pool and number of a slot."""


class State(Enum):
    """What a slot is for."""

    FREE = "maint"
    """Nothing; its address means nothing."""
    TAKING = "ready"
    """A member, which gets requests while it passes its check."""
    DRAINING = "drain"
    """A replica that was a member, and still answers requests."""


class Slot(NamedTuple):
    """A slot of a pool."""

    state: State
    replica: Replica
    requests: int
    """Requests in progress, counted while it drains."""
    healthy: bool
    """Whether the replica passes its check."""


class Held(NamedTuple):
    """What HAProxy holds."""

    slots: Mapping[Key, Slot]
    pools: Mapping[str, int]
    """The map: the pool of each model, also in the second cluster, and of ANY_MODEL."""
    shares: Mapping[str, int] = {}
    """The map's entries of shares."""

    @property
    def healthy(self) -> set[Target]:
        """HTTP addresses of members that pass their check."""
        return {slot.replica.http for slot in self.slots.values() if slot.state is State.TAKING and slot.healthy}


class Changes(NamedTuple):
    """Commands for the admin socket, in order."""

    commands: list[str]
    without_pool: tuple[str, ...] = ()
    """Models for which no pool is free."""
    without_slot: tuple[Replica, ...] = ()
    """Replicas for which no slot is free."""


def parse_held(states: str, entries: str, ask_requests: Callable[[], str]) -> Held:
    """Read the answers to SHOW_STATES and ``show map``, and to SHOW_REQUESTS, asked last, where something drains.

    There are thousands of slots, and this is read several times a second. Statistics alone do not say that a slot
    drains once its replica fails its check.
    """
    # The first line is the format's version.
    _, header, *lines = states.strip().splitlines()
    read = itemgetter(*map(header.removeprefix("# ").split().index, _COLUMNS))
    servers = {(row[0], row[1]): row[2:] for row in (read(line.split()) for line in lines)}
    slots = {}
    for (backend, server), (host, port, admin_state, op_state, tls) in servers.items():
        if backend[0] == "m":
            replica = _replica(host, port, *servers[f"g{backend[1:]}", server][:2], tls == "1")
            slot = Slot(_state(int(admin_state)), replica, 0, op_state == _RUNNING)
            slots[int(backend[1:]), int(server[1:])] = slot
    draining = [key for key, slot in slots.items() if slot.state is State.DRAINING]
    if draining:
        requests = _parse_requests(ask_requests())
        for pool, number in draining:
            count = requests[f"m{pool}", f"r{number}"] + requests[f"g{pool}", f"r{number}"]
            slots[pool, number] = slots[pool, number]._replace(requests=count)
    # Each line is an entry's address in memory, its key and its value.
    values = {key: int(value) for _, key, value in (line.split() for line in entries.strip().splitlines())}
    shares = {key: value for key, value in values.items() if is_share(key)}
    return Held(slots, {key: value for key, value in values.items() if key not in shares}, shares)


def _parse_requests(statistics: str) -> dict[tuple[str, str], int]:
    rows = csv.DictReader(statistics.strip().splitlines())
    return {(row["# pxname"], row["svname"]): int(row["scur"]) + int(row["qcur"]) for row in rows}


@lru_cache(maxsize=10_000)
def _replica(host: str, port: str, grpc_host: str, grpc_port: str, peer: bool) -> Replica:
    grpc = Target(host=grpc_host, port=int(grpc_port))
    return Replica(http=Target(host=host, port=int(port)), grpc=None if grpc == UNUSED else grpc, peer=peer)


def plan_changes(held: Held, members: Membership, map_file: str) -> Changes:
    """Return what makes HAProxy hold the members, and nothing that it holds already.

    A slot whose replica leaves drains until its last request is answered, and is not used for another before that.
    """
    replicas = members.by_key
    pools, without_pool = _assign(held, list(replicas))
    wanted = {pools[key]: replicas[key] for key in replicas if key in pools}
    wanted[ROOT_POOL] = members.root
    commands: list[str] = []
    without_slot: list[Replica] = []
    for pool in sorted({pool for pool, _ in held.slots}):
        slots = {number: slot for (p, number), slot in held.slots.items() if p == pool}
        for change in _change_pool(pool, slots, wanted.get(pool, ())):
            if isinstance(change, Replica):
                without_slot.append(change)
            else:
                commands.append(change)
    # The map last: a model's first request comes to slots that are filled.
    entries = dict(pools)
    if answering := [pools[model] for model in members.models if model in pools and members.models[model]]:
        entries[ANY_MODEL] = held.pools.get(ANY_MODEL, -1)
        if entries[ANY_MODEL] not in answering:
            entries[ANY_MODEL] = min(answering)
    commands += _change_map({**held.pools, **held.shares}, entries | members.share_entries(pools), map_file)
    return Changes(commands, tuple(without_pool), tuple(without_slot))


def mark_down(held: Held, hosts: Set[str]) -> Iterator[str]:
    """Yield what takes the replicas of hosts that are gone out of rotation, until they pass a check again."""
    for (pool, number), slot in held.slots.items():
        if slot.state is not State.FREE and slot.healthy and slot.replica.http.host in hosts:
            yield _set(pool, number, "health down")


def _assign(held: Held, keys: list[str]) -> tuple[dict[str, int], list[str]]:
    """The pool of each key, and the keys without one. A pool in which something drains is not free."""
    pools = {key: held.pools[key] for key in keys if key in held.pools}
    busy = {pool for (pool, _), slot in held.slots.items() if slot.state is not State.FREE}
    busy |= {ROOT_POOL, *held.pools.values()}
    free = sorted({pool for pool, _ in held.slots} - busy)
    new = [key for key in keys if key not in pools]
    return pools | dict(zip(new, free, strict=False)), new[len(free) :]


def _change_pool(pool: int, slots: dict[int, Slot], wanted: tuple[Replica, ...]) -> Iterator[str | Replica]:
    """Commands; a replica for which no slot is free comes as itself."""
    holding = {slot.replica for slot in slots.values() if slot.state is not State.FREE}
    for number, slot in slots.items():
        if slot.state is State.TAKING and slot.replica not in wanted:
            yield _set(pool, number, "state drain")
        elif slot.state is State.DRAINING and slot.replica not in wanted and not slot.requests:
            yield _set(pool, number, "state maint")
        elif slot.state is State.DRAINING and slot.replica in wanted:
            yield _set(pool, number, "state ready")
    empty_slots = sorted(number for number, slot in slots.items() if slot.state is State.FREE)
    # Whether a slot uses TLS is fixed in the configuration.
    free = {peer: iter([n for n in empty_slots if slots[n].replica.peer == peer]) for peer in (False, True)}
    for replica in wanted:
        if replica in holding:
            continue
        if (empty := next(free[replica.peer], None)) is None:
            yield replica
        else:
            yield from _fill(pool, empty, slots[empty].replica, replica)


def _fill(pool: int, number: int, before: Replica, replica: Replica) -> Iterator[str]:
    if before.http != replica.http:
        yield _set(pool, number, f"addr {replica.http.host} port {replica.http.port}")
    if before.grpc != replica.grpc:
        grpc = replica.grpc or UNUSED
        yield f"set server g{pool}/r{number} addr {grpc.host} port {grpc.port}"
    yield _set(pool, number, "state ready")


def _set(pool: int, number: int, change: str) -> str:
    # The slot for gRPC tracks this one, its state included.
    return f"set server m{pool}/r{number} {change}"


def _change_map(before: Mapping[str, int], after: Mapping[str, int], map_file: str) -> Iterator[str]:
    for key in sorted(before.keys() - after.keys()):
        yield f"del map {map_file} {key}"
    for key, pool in sorted(after.items()):
        if key not in before:
            yield f"add map {map_file} {key} {pool}"
        elif before[key] != pool:
            yield f"set map {map_file} {key} {pool}"


def _state(admin_state: int) -> State:
    if admin_state & _MAINTENANCE:
        return State.FREE
    return State.DRAINING if admin_state & _DRAIN else State.TAKING
