"""The door under faults and changes, beside Serve's own HAProxy."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks import results
from benchmarks.cluster.certificates import self_signed
from benchmarks.cluster.door_process import Door, running_door
from benchmarks.cluster.load import SteadyLoad, wait_until
from benchmarks.cluster.replicas import MODEL, FakeReplica, FakeServe, Loop
from benchmarks.cluster.serve_haproxy import ServeHaproxy
from benchmarks.results import Row, Target
from cluster.node.ports import free_port
from cluster.settings import Settings

_RATE = 200.0
_LONG_EVERY, _LONG_S = 500, 30.0
_LEAST, _MOST = 2, 6
_CONNECT_EVERY = 10
# As Serve: a replica that leaves answers for that long, then until its last request is answered.
_LEAVING_S = 10.0
_NONE = Target(of="value", sign="=", limit=0.0)
_SECOND = Target(of="value", sign="≤", limit=1.0)
_PEER = "Serve's HAProxy"
Progress = Callable[[str], None]


class _Fleet:
    """Replicas that come and go at random."""

    def __init__(self, loop: Loop, seed: int) -> None:
        self._loop, self._random = loop, random.Random(seed)
        self.replicas = [self._start() for _ in range(3)]

    def change(self) -> None:
        count = len(self.replicas)
        if count < _MOST and (count == _LEAST or self._random.random() < 0.5):
            self.replicas = [*self.replicas, self._start()]
        else:
            gone = self._random.choice(self.replicas)
            self.replicas = [replica for replica in self.replicas if replica is not gone]
            gone.leaving = True
            asyncio.run_coroutine_threadsafe(self._end(gone), self._loop.loop)

    def _start(self) -> FakeReplica:
        started: FakeReplica = self._loop.run(FakeReplica("replica").start())
        return started

    async def _end(self, replica: FakeReplica) -> None:
        await asyncio.sleep(_LEAVING_S)
        await replica.stop()


def changes(count: int, pause_s: float, progress: Progress) -> Iterator[Row]:
    """Rows of replicas that come and go under load."""
    work = f"{count:,} changes of replicas at {_RATE:g} requests/s, one request in {_LONG_EVERY} takes {_LONG_S:g} s"
    own, own_reloads = _changes_of_door(count, pause_s)
    progress(f"door: {len(own.failed)} of {len(own.outcomes)} failed ({_kinds(own)}), {own_reloads} reloads")
    peer, peer_reloads = _changes_of_serve(count, pause_s)
    progress(f"{_PEER}: {len(peer.failed)} of {len(peer.outcomes)} failed, {peer_reloads} reloads")
    note = f"{len(own.outcomes):,} and {len(peer.outcomes):,} requests; failed: {_kinds(own)} and {_kinds(peer)}"
    yield results.row(work, "failed requests", len(own.failed), _PEER, len(peer.failed), _NONE, note)
    yield results.row(work, "reloads", own_reloads, _PEER, peer_reloads, _NONE)
    yield results.row(work, "ms, p99 of short requests", _p99_ms(own), _PEER, _p99_ms(peer))


def kills(times: int, progress: Progress) -> Iterator[Row]:
    """Rows of HAProxy and of its supervisor, killed under load."""
    for name, find in (("HAProxy", lambda door: door.haproxy), ("the supervisor", lambda door: door.leader)):
        load = _kill(times, find)
        gap, failed, late = load.longest_gap_s, len(load.failed), load.late_s
        progress(f"{name} killed: {gap:.3f} s without an answer, {failed} failed, load {late:.3f} s late")
        work = f"kill -9 of {name}, {times} times at {_RATE:g} requests/s"
        yield results.row(
            work, "s without an answer, at most", gap, target=_SECOND, note=f"the load left up to {late:.2f} s late"
        )
        yield results.row(work, "failed requests", failed, note="in flight, or sent on a connection that had ended")


def certificates(seconds: float, every_s: float, progress: Progress) -> Iterator[Row]:
    """The row of certificates that are replaced under load; some requests open a connection of their own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "door.pem"
        file.write_text(self_signed())
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with _door(door_certificate=str(file)) as (door, serve, loop):
            _serve(door, serve, _Fleet(loop, 0))
            address, replaced, end = ("127.0.0.1", door.settings.serve_port), 0, time.monotonic() + seconds
            with SteadyLoad(loop, address[1], _RATE, ssl=context, connect_every=_CONNECT_EVERY) as load:
                while time.monotonic() < end:
                    time.sleep(every_s)
                    file.write_text(content := self_signed())
                    wait_until(lambda: content.startswith(ssl.get_server_certificate(address)), "the new one")
                    replaced += 1
    progress(f"certificates: {replaced} replaced, {len(load.failed)} of {len(load.outcomes)} failed")
    work = f"certificate replaced every {every_s:g} s for {seconds:g} s at {_RATE:g} requests/s"
    note = f"{replaced} certificates, {len(load.outcomes):,} requests, one in {_CONNECT_EVERY} on a new connection"
    yield results.row(work, "failed requests", len(load.failed), target=_NONE, note=note)


def _changes_of_door(count: int, pause_s: float) -> tuple[SteadyLoad, int]:
    with _door() as (door, serve, loop):
        fleet = _Fleet(loop, 0)
        _serve(door, serve, fleet)
        pid = door.haproxy

        def follow() -> None:
            serve.models[MODEL] = [replica.replica for replica in fleet.replicas]

        load = _loaded(loop, door.settings.serve_port, fleet, count, pause_s, follow)
        return load, int(door.haproxy != pid)


def _changes_of_serve(count: int, pause_s: float) -> tuple[SteadyLoad, int]:
    loop, port = Loop(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        fleet = _Fleet(loop, 0)
        haproxy = ServeHaproxy(port, Path(folder))
        loop.run(haproxy.start(fleet.replicas))
        try:
            load = _loaded(loop, port, fleet, count, pause_s, lambda: loop.run(haproxy.follow(fleet.replicas)))
        finally:
            loop.run(haproxy.stop())
            loop.close()
        return load, haproxy.reloads


def _loaded(
    loop: Loop, port: int, fleet: _Fleet, count: int, pause_s: float, follow: Callable[[], object]
) -> SteadyLoad:
    with SteadyLoad(loop, port, _RATE, long_every=_LONG_EVERY, long_s=_LONG_S) as load:
        for _ in range(count):
            time.sleep(pause_s)
            fleet.change()
            follow()
    return load


def _kill(times: int, find: Callable[[Door], int]) -> SteadyLoad:
    with _door() as (door, serve, loop):
        _serve(door, serve, _Fleet(loop, 0))
        with SteadyLoad(loop, door.settings.serve_port, _RATE) as load:
            for _ in range(times):
                load.await_answers(int(_RATE))
                wait_until(lambda: len(door.supervisors) == 2, "a supervisor and its standby")
                killed = find(door)
                os.kill(killed, signal.SIGKILL)
                wait_until(lambda: find(door) not in (0, killed), "another process")  # noqa: B023 - called at once
            load.await_answers(int(_RATE))
        return load


def _door(**changes: object) -> AbstractContextManager[tuple[Door, FakeServe, Loop]]:
    home = Path(tempfile.mkdtemp(prefix="bench-door-"))
    settings = Settings(home=home, serve_port=free_port(), grpc_port=free_port(), haproxy_metrics_port=free_port())
    return running_door(settings, **changes)


def _serve(door: Door, serve: FakeServe, fleet: _Fleet) -> None:
    serve.models[MODEL] = [replica.replica for replica in fleet.replicas]
    wait_until(lambda: door.taking() >= {replica.port for replica in fleet.replicas}, "the door has the replicas")


def _kinds(load: SteadyLoad) -> str:
    counts: dict[str, int] = {}
    for outcome in load.failed:
        counts[outcome.status] = counts.get(outcome.status, 0) + 1
    return ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items())) or "none"


def _p99_ms(load: SteadyLoad) -> float:
    short = sorted(1000.0 * (o.ended - o.due) for o in load.outcomes if o.status == "200")
    # The long ones are the slowest.
    short = short[: len(short) - len(load.outcomes) // _LONG_EVERY]
    return short[int(0.99 * len(short))]
