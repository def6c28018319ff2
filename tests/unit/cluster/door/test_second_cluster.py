"""Replicas of the second cluster, while it answers, is away, or is another one."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.door import second_cluster
from cluster.door.membership import Membership, Replica, Target
from cluster.door.moves import Moves
from cluster.door.second_cluster import SecondCluster
from cluster.settings import Settings

ADDRESS, OTHER = "http://10.0.0.8:8265", "http://10.0.0.9:8265"


def replica(port: int) -> Replica:
    return Replica(http=Target(host="10.0.0.8", port=port))


class Watcher:
    """A watcher without a thread."""

    answers: dict[str, Membership]
    running: list[str]
    answered_s = 0.0

    def __init__(self, settings: Settings) -> None:
        self._address = settings.dashboard

    def start(self) -> None:
        self.running.append(self._address)

    def stop(self) -> None:
        self.running.remove(self._address)

    def listed(self) -> Membership | None:
        return self.answers.get(self._address)


@pytest.fixture
def watcher(monkeypatch: pytest.MonkeyPatch) -> type[Watcher]:
    Watcher.answers, Watcher.running = {}, []
    monkeypatch.setattr(second_cluster, "MembershipWatcher", Watcher)
    return Watcher


def members(address: str, **shares: float) -> Membership:
    return Membership(moves=Moves(address=address, shares=shares))


def settle(second: SecondCluster, wish: Membership, before: Membership) -> Membership:
    found: Any = second.settle(wish, before, {replica(port).http for port in (1, 2, 3)})
    return wish.model_copy(update={"second": found})


def test_second_cluster_is_followed_from_its_wish_to_its_end(watcher: type[Watcher]) -> None:
    second = SecondCluster(Settings())
    nothing = settle(second, Membership(), Membership())
    assert (nothing.second, watcher.running) == ({}, [])
    known = members(ADDRESS, a=0.5).model_copy(update={"second": {"a": (replica(1),)}})
    # After a restart of the door, while the second cluster's head is away.
    waiting = settle(second, members(ADDRESS, a=0.5, b=0.0), known)
    assert waiting.second == {"a": (replica(1),), "b": ()}
    watcher.answers[ADDRESS] = Membership(models={"a": (replica(2),), "b": (replica(3),), "c": (replica(1),)})
    listed = settle(second, members(ADDRESS, a=0.5, b=0.0), waiting)
    # One that passes its check and is not listed stays for a while, as in the first cluster.
    assert listed.second == {"a": (replica(2), replica(1)), "b": (replica(3),)}
    assert settle(second, members(ADDRESS, b=0.0), listed).second == {"b": (replica(3),)}
    # Replicas of one cluster are none of another's.
    assert settle(second, members(OTHER, b=1.0), listed).second == {"b": ()}
    assert watcher.running == [OTHER]
    second.stop()
    assert watcher.running == []
