"""Changes of slots: any memberships converge, with no command too many, and no slot that drains is used again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.door.config import UNUSED
from cluster.door.membership import ANY_MODEL, Membership, Replica, Target
from cluster.door.moves import Moves, is_share, share_key, share_parts
from cluster.door.slots import Held, Slot, State, mark_down, parse_held, plan_changes

MAP = "/models.map"
POOLS, SLOTS = 3, 3
"""Slots of each kind: for replicas that the door reaches itself, and for those behind doors of other hosts."""


def replica(number: int) -> Replica:
    return Replica(
        http=Target(host=f"10.0.0.{number}", port=30000 + number),
        grpc=Target(host=f"10.0.0.{number}", port=40000 + number) if number % 3 else None,
        peer=number > 9,
    )


class Simulated:
    """HAProxy as its admin socket shows it."""

    def __init__(self) -> None:
        self.slots = {
            (pool, number): Slot(State.FREE, Replica(http=UNUSED, peer=number >= SLOTS), 0, False)
            for pool in range(POOLS)
            for number in range(2 * SLOTS)
        }
        self.map: dict[str, int] = {}

    @property
    def pools(self) -> dict[str, int]:
        return {key: value for key, value in self.map.items() if not is_share(key)}

    @property
    def held(self) -> Held:
        return Held(dict(self.slots), self.pools, {key: v for key, v in self.map.items() if is_share(key)})

    def run(self, commands: list[str]) -> None:
        for command in commands:
            self._run(command.split())

    def _run(self, words: list[str]) -> None:
        match words:
            case ["set", "server", name, "state", state]:
                key, slot = self._slot(name)
                assert slot.state is not State(state)
                assert (state, slot.requests) != ("maint", 1)
                self.slots[key] = slot._replace(state=State(state), healthy=state == "ready")
            case ["set", "server", name, "addr", host, "port", port]:
                key, slot = self._slot(name)
                assert slot.state is State.FREE, "only a free slot gets another address"
                target = Target(host=host, port=int(port))
                http = target if name[0] == "m" else slot.replica.http
                grpc = slot.replica.grpc if name[0] == "m" else None if target == UNUSED else target
                changed = slot.replica.model_copy(update={"http": http, "grpc": grpc})
                assert slot.replica != changed
                self.slots[key] = slot._replace(replica=changed)
            case ["add", "map", name, key, pool] if name == MAP:
                assert key not in self.map
                self.map[key] = int(pool)
            case ["set", "map", name, key, pool] if name == MAP:
                assert self.map[key] != int(pool)
                self.map[key] = int(pool)
            case ["del", "map", name, key] if name == MAP:
                del self.map[key]
            case _:
                raise AssertionError(words)

    def _slot(self, name: str) -> tuple[tuple[int, int], Slot]:
        backend, server = name.split("/")
        key = int(backend[1:]), int(server[1:])
        return key, self.slots[key]

    def set_requests(self, busy: set[tuple[int, int]]) -> None:
        for key, slot in self.slots.items():
            self.slots[key] = slot._replace(requests=int(key in busy and slot.state is not State.FREE))

    def taking(self, pool: int) -> list[Replica]:
        slots = [slot for (p, _), slot in self.slots.items() if p == pool and slot.state is State.TAKING]
        return sorted((slot.replica for slot in slots), key=lambda r: r.http.port)


replicas = st.builds(
    lambda own, others: tuple(map(replica, [*own, *others])),
    st.lists(st.integers(1, 9), max_size=SLOTS, unique=True),
    st.lists(st.integers(10, 18), max_size=SLOTS, unique=True),
)
by_model = st.dictionaries(st.sampled_from(["a", "b", "c"]), replicas, max_size=POOLS)
shares = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.floats(0.0, 1.0), max_size=2)
memberships = st.builds(
    lambda root, models, second, shares: Membership(
        root=root,
        models=models,
        moves=Moves(address="http://second", shares=shares),
        second={model: second.get(model, ()) for model in shares},
    ),
    replicas,
    by_model,
    by_model,
    shares,
)
slots = st.sets(st.tuples(st.integers(0, POOLS - 1), st.integers(0, 2 * SLOTS - 1)))


@given(st.lists(st.tuples(memberships, slots), min_size=1, max_size=8))
def test_any_sequence_of_memberships_converges(steps: list[tuple[Membership, set[tuple[int, int]]]]) -> None:
    haproxy = Simulated()
    for members, busy in steps:
        haproxy.set_requests(busy)
        draining = {key: slot for key, slot in haproxy.slots.items() if slot.state is State.DRAINING and slot.requests}
        haproxy.run(plan_changes(haproxy.held, members, MAP).commands)
        for key, slot in draining.items():
            assert haproxy.slots[key].replica == slot.replica
    haproxy.set_requests(set())
    # Drained slots become free, and then hold what had no room.
    for _ in range(3):
        changes = plan_changes(haproxy.held, members, MAP)
        haproxy.run(changes.commands)
    assert plan_changes(haproxy.held, members, MAP).commands == []
    assert haproxy.taking(0) == sorted(members.root, key=lambda r: r.http.port)
    assert len(changes.without_pool) == max(0, len(members.by_key) - (POOLS - 1))
    for key in members.by_key.keys() - set(changes.without_pool):
        assert haproxy.taking(haproxy.pools[key]) == sorted(members.by_key[key], key=lambda r: r.http.port)
    moving = {key[1:] for key in haproxy.pools if key.startswith("+")}
    assert haproxy.held.shares == {share_key(m): share_parts(members.moves.shares[m]) for m in moving}
    assert changes.without_slot == ()
    answering = [haproxy.pools[m] for m, r in members.models.items() if r and m in haproxy.pools]
    assert (haproxy.pools.get(ANY_MODEL) in answering) == bool(answering)


@given(memberships, memberships)
def test_change_takes_no_command_too_many(before: Membership, after: Membership) -> None:
    haproxy = Simulated()
    haproxy.run(plan_changes(haproxy.held, before, MAP).commands)
    commands = plan_changes(haproxy.held, after, MAP).commands
    drains = [command for command in commands if command.endswith("drain")]
    held = {key: slot.replica for key, slot in haproxy.slots.items() if slot.state is State.TAKING}
    kept = [r for pool, r in ((key[0], r) for key, r in held.items()) if r in wanted(haproxy, after, pool)]
    assert len(drains) == len(held) - len(kept)
    assert len([c for c in commands if c.endswith("ready")]) <= sum(map(len, (after.root, *after.by_key.values())))
    assert len(commands) == len(set(commands))


def wanted(haproxy: Simulated, members: Membership, pool: int) -> tuple[Replica, ...]:
    model = next((key for key, value in haproxy.pools.items() if value == pool and key != ANY_MODEL), None)
    return members.root if pool == 0 else members.by_key.get(model or "", ())


def test_replica_that_comes_back_while_it_drains_takes_requests_again() -> None:
    haproxy = Simulated()
    members = Membership(models={"a": (replica(1),)})
    haproxy.run(plan_changes(haproxy.held, members, MAP).commands)
    haproxy.set_requests({(1, 0)})
    haproxy.run(plan_changes(haproxy.held, Membership(models={"a": ()}), MAP).commands)
    assert plan_changes(haproxy.held, members, MAP).commands == [
        "set server m1/r0 state ready",
        f"add map {MAP} {ANY_MODEL} 1",
    ]


def test_full_pool_leaves_replicas_and_models_out() -> None:
    haproxy = Simulated()
    members = Membership(models={"a": tuple(map(replica, range(1, 6))), "b": (), "c": ()})
    changes = plan_changes(haproxy.held, members, MAP)
    assert changes.without_slot == (replica(4), replica(5))
    assert changes.without_pool == ("c",)


def test_change_of_a_share_is_one_command() -> None:
    haproxy = Simulated()
    members = Membership(
        models={"a": (replica(1),)},
        moves=Moves(address="http://second").with_share("a", "http://second", 0.1),
        second={"a": (replica(2),)},
    )
    haproxy.run(plan_changes(haproxy.held, members, MAP).commands)
    assert haproxy.map == {"a": 1, "+a": 2, "%a": 1000, ANY_MODEL: 1}
    more = members.model_copy(update={"moves": members.moves.with_share("a", "http://second", 0.5)})
    assert plan_changes(haproxy.held, more, MAP).commands == [f"set map {MAP} %a 5000"]


def test_replicas_of_other_hosts_get_only_slots_with_tls() -> None:
    haproxy = Simulated()
    members = Membership(models={"a": tuple(map(replica, (1, 10, 11, 12, 13)))})
    changes = plan_changes(haproxy.held, members, MAP)
    haproxy.run(changes.commands)
    held = {key: slot.replica for key, slot in haproxy.slots.items() if slot.state is State.TAKING}
    assert held == {(1, 0): replica(1), (1, 3): replica(10), (1, 4): replica(11), (1, 5): replica(12)}
    assert changes.without_slot == (replica(13),)


STATES = """1
# be_name srv_name srv_addr srv_op_state srv_admin_state srv_port srv_use_ssl
peer_http replica 0.0.0.0 2 0 0 0
m1 r0 10.0.0.1 2 0 30001 0
m1 r1 10.0.0.2 2 8 31502 1
m1 r2 127.0.0.1 0 5 1 1
g1 r0 10.0.0.1 2 0 40001 0
g1 r1 127.0.0.1 2 24 1 1
g1 r2 127.0.0.1 0 5 1 1
"""
REQUESTS = "# pxname,svname,qcur,scur\nm1,r0,0,9\nm1,r1,1,2\nm1,r2,0,0\ng1,r0,0,0\ng1,r1,0,4\ng1,r2,0,0\n"


def test_what_haproxy_holds_is_read_from_its_answers() -> None:
    held = parse_held(STATES, "0x1 a 1\n0x2 +a 2\n0x3 %a 2500\n", lambda: REQUESTS)
    first = Replica(http=Target(host="10.0.0.1", port=30001), grpc=Target(host="10.0.0.1", port=40001))
    assert held.slots == {
        (1, 0): Slot(State.TAKING, first, 0, True),
        (1, 1): Slot(State.DRAINING, Replica(http=Target(host="10.0.0.2", port=31502), peer=True), 7, True),
        (1, 2): Slot(State.FREE, Replica(http=UNUSED, peer=True), 0, False),
    }
    assert (held.pools, held.shares) == ({"a": 1, "+a": 2}, {"%a": 2500})
    assert held.healthy == {first.http}


def test_requests_are_asked_for_only_while_a_slot_drains() -> None:
    def fail() -> str:
        raise AssertionError

    parse_held(STATES.replace(" 2 8 ", " 2 0 "), "", fail)


def test_replicas_of_hosts_that_are_gone_are_marked_down_once() -> None:
    held = parse_held(STATES, "", lambda: REQUESTS)
    assert list(mark_down(held, {"10.0.0.1"})) == ["set server m1/r0 health down"]
    assert (
        list(
            mark_down(
                parse_held(STATES.replace("m1 r0 10.0.0.1 2", "m1 r0 10.0.0.1 0"), "", lambda: REQUESTS), {"10.0.0.1"}
            )
        )
        == []
    )
