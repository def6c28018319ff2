"""Changes of slots: any memberships converge, with no command too many, and no slot that drains is used again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.door.config import UNUSED, DoorConfig, assign_pools, config_fingerprint, render_config, render_map
from cluster.door.membership import ANY_MODEL, Membership, Replica, Target
from cluster.door.slots import Held, Slot, State, plan_changes

MAP = "/models.map"
POOLS, SLOTS = 3, 3


def replica(number: int) -> Replica:
    return Replica(
        http=Target(host=f"10.0.0.{number}", port=30000 + number),
        grpc=Target(host=f"10.0.0.{number}", port=40000 + number) if number % 3 else None,
    )


class Simulated:
    """HAProxy as its admin socket shows it."""

    def __init__(self) -> None:
        empty = Slot(State.FREE, Replica(http=UNUSED), 0, False)
        self.slots = {(pool, number): empty for pool in range(POOLS) for number in range(SLOTS)}
        self.pools: dict[str, int] = {}

    @property
    def held(self) -> Held:
        return Held(dict(self.slots), dict(self.pools))

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
                assert slot.replica != Replica(http=http, grpc=grpc)
                self.slots[key] = slot._replace(replica=Replica(http=http, grpc=grpc))
            case ["add", "map", name, key, pool] if name == MAP:
                assert key not in self.pools
                self.pools[key] = int(pool)
            case ["set", "map", name, key, pool] if name == MAP:
                assert self.pools[key] != int(pool)
                self.pools[key] = int(pool)
            case ["del", "map", name, key] if name == MAP:
                del self.pools[key]
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


replicas = st.lists(st.integers(1, 9).map(replica), max_size=SLOTS, unique=True).map(tuple)
memberships = st.builds(
    Membership, root=replicas, models=st.dictionaries(st.sampled_from(["a", "b", "c"]), replicas, max_size=POOLS)
)
slots = st.sets(st.tuples(st.integers(0, POOLS - 1), st.integers(0, SLOTS - 1)))


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
    assert len(changes.without_pool) == max(0, len(members.models) - (POOLS - 1))
    for model in members.models.keys() - set(changes.without_pool):
        assert haproxy.taking(haproxy.pools[model]) == sorted(members.models[model], key=lambda r: r.http.port)
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
    assert len([c for c in commands if c.endswith("ready")]) <= sum(map(len, (after.root, *after.models.values())))
    assert len(commands) == len(set(commands))


def wanted(haproxy: Simulated, members: Membership, pool: int) -> tuple[Replica, ...]:
    model = next((key for key, value in haproxy.pools.items() if value == pool and key != ANY_MODEL), None)
    return members.root if pool == 0 else members.models.get(model or "", ())


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


def test_configuration_holds_the_members_that_the_map_names(tmp_path) -> None:
    config = DoorConfig(folder=tmp_path, http_fd=5, grpc_fd=6, metrics_port=9101, pools=POOLS, slots=SLOTS)
    members = Membership(root=(replica(9),), models={"b": (replica(1), replica(2)), "a": ()})
    pools = assign_pools(members.models, config)
    assert render_map(pools, members) == f"a 1\nb 2\n{ANY_MODEL} 2\n"
    text = render_config(config, members, pools)
    backend = text.partition("backend m2\n")[2].partition("\n\n")[0]
    assert "server r0 10.0.0.1:30001\n" in backend
    assert "server r1 10.0.0.2:30002\n" in backend
    assert backend.endswith("server r2 127.0.0.1:1 disabled")
    assert "server r0 10.0.0.1:40001 track m2/r0" in text.partition("backend g2\n")[2]
    assert "server r0 10.0.0.9:30009\n" in text.partition("backend m0\n")[2]


def test_fingerprint_of_a_configuration_leaves_sockets_out(tmp_path) -> None:
    config = DoorConfig(folder=tmp_path, http_fd=5, grpc_fd=6, metrics_port=9101)
    other = config.model_copy(update={"http_fd": 7, "grpc_fd": 8})
    assert config_fingerprint(config) == config_fingerprint(other)
    assert config_fingerprint(config) != config_fingerprint(config.model_copy(update={"slots": 3}))
