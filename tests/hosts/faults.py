"""Faults of hosts: each begins, and ends, whatever happens to the test."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

from tests.hosts.history.events import Fault
from tests.hosts.host import Host
from tests.hosts.network import Network
from tests.hosts.schedules import PlannedFault, Schedule

STEP_S = 3600.0


class Service(NamedTuple):
    """A server of a host that can be stopped, and started with what it has on its disk."""

    stop: Callable[[], None]
    start: Callable[[], object]


class FaultInjector:
    """Begins and ends faults in a network; leaving the context ends those that are under way.

    Args:
        network: The network.
        observers: Hosts that a partition does not separate: those of clients.
        boot: Boots a host that is down, and starts what runs there.
        services: By host, what the fault "stop" stops.
    """

    def __init__(
        self,
        network: Network,
        observers: Sequence[Host] = (),
        boot: Callable[[Host], None] = Host.boot,
        services: Mapping[str, Service] | None = None,
    ) -> None:
        self._network, self._observers, self._boot = network, observers, boot
        self._services = services or {}
        self._active: dict[tuple[str, str], float] = {}
        self._ending: defaultdict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)
        self._cut_off: dict[str, list[Host]] = {}
        self._closing = threading.Event()
        self.past: list[Fault] = []
        """Faults that are over."""

    def __enter__(self) -> FaultInjector:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        for kind, host in list(self._active):
            self.end(kind, host)

    def play(self, schedule: Schedule) -> None:
        """Play a schedule, its lanes side by side; returns once the last fault is over."""
        begin = time.monotonic()
        with ThreadPoolExecutor(max(len(schedule.lanes), 1)) as pool:
            lanes = [pool.submit(self._play_lane, lane, begin) for lane in schedule.lanes]
        for lane in lanes:
            lane.result()

    @contextmanager
    def playing(self, schedule: Schedule) -> Iterator[None]:
        """Play a schedule while the block runs, and to its end; a block that fails interrupts it."""
        with ThreadPoolExecutor(1) as pool:
            played = pool.submit(self.play, schedule)
            try:
                yield
            except BaseException:
                self._closing.set()
                raise
            played.result()

    def _play_lane(self, lane: Sequence[PlannedFault], begin: float) -> None:
        for fault in lane:
            if self._closing.wait(begin + fault.at - time.monotonic()):
                return
            self.begin(fault.kind, fault.host)
            try:
                self._closing.wait(fault.duration)
            finally:
                self.end(fault.kind, fault.host)

    def begin(self, kind: str, name: str) -> None:
        """Begin a fault of a host."""
        host = self._network.hosts[name]
        assert host.own_clock or not kind.startswith("clock"), f"{name} has the machine's clock"
        assert host.disk_mb or kind != "full-disk", f"{name} has the machine's disk"
        self._active[kind, name] = time.monotonic()
        match kind:
            case "kill":
                host.kill()
            case "partition":
                self._cut_off[name] = self._others(host)
                self._network.partition([host], self._cut_off[name])
            case "freeze":
                host.freeze()
            case "clock-ahead" | "clock-behind":
                host.step_clock(STEP_S if kind == "clock-ahead" else -STEP_S)
            case "full-disk":
                host.fill_disk()
            case "stop":
                self._services[name].stop()
            case _:
                raise ValueError(f"no kind of fault: {kind}")

    def end(self, kind: str, name: str) -> None:
        """End it; returns once what runs on the host has been started, if that was necessary. Safe to repeat."""
        with self._ending[kind, name]:
            if (kind, name) in self._active:
                self._end(kind, name)
                self.past.append(Fault(kind, name, self._active.pop((kind, name)), time.monotonic()))

    def _end(self, kind: str, name: str) -> None:
        host = self._network.hosts[name]
        match kind:
            case "kill":
                self._boot(host)
            case "partition":
                # Of two hosts that are cut off, the one that is connected last ends what is between them.
                others = [other for other in self._cut_off.pop(name) if other.name not in self._cut_off]
                self._network.reconnect([host], others)
            case "freeze":
                host.thaw()
            case "clock-ahead" | "clock-behind":
                host.step_clock(0)
            case "full-disk":
                host.empty_disk()
            case "stop":
                self._services[name].start()

    def _others(self, host: Host) -> list[Host]:
        return [other for other in self._network.hosts.values() if other not in (host, *self._observers)]
