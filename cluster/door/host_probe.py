"""Which other hosts are gone: their kernel no longer answers a connection attempt.

A process that is too busy for a check is no sign of that, and a refusal is an answer: the host is there.
"""

from __future__ import annotations

import errno
import itertools
import logging
import select
import socket
import threading
import time
from collections.abc import Iterable

from cluster.door.membership import Target

PERIOD_S = 0.3
"""Seconds that a host has to answer, and from one attempt to the next."""
MISSES = 3
"""Attempts in a row without an answer after which a host is gone."""

_log = logging.getLogger(__name__)


class HostProbe(threading.Thread):
    """Tries to connect to each host, again and again."""

    def __init__(self) -> None:
        super().__init__(name="host-probe", daemon=True)
        self._targets: dict[str, list[Target]] = {}
        self._misses: dict[str, int] = {}
        self._stop = threading.Event()

    def watch(self, targets: Iterable[Target]) -> None:
        """Try these addresses from now on: in each round another one of a host, whose other replicas may be stuck."""
        found: dict[str, list[Target]] = {}
        for target in targets:
            found.setdefault(target.host, []).append(target)
        self._targets = found

    def gone(self) -> frozenset[str]:
        """Return the hosts that are gone."""
        return frozenset(host for host, misses in self._misses.items() if misses >= MISSES)

    def run(self) -> None:
        """Probe until ``stop``."""
        for number in itertools.count():
            started = time.monotonic()
            targets = [choices[number % len(choices)] for choices in self._targets.values()]
            try:
                missing = silent_hosts(targets, PERIOD_S)
            except OSError as error:
                # Such as no file descriptor left, which says nothing about the hosts.
                _log.error("hosts cannot be probed: %s", error)
                missing = set()
            before = self._misses
            self._misses = {t.host: before.get(t.host, 0) + 1 if t.host in missing else 0 for t in targets}
            if self._stop.wait(max(0.0, started + PERIOD_S - time.monotonic())):
                return

    def stop(self) -> None:
        """End the thread after the present attempt."""
        self._stop.set()


def silent_hosts(targets: Iterable[Target], within_s: float) -> set[str]:
    """Connect to all targets at once. Returns the hosts from which nothing comes in time, neither yes nor no."""
    waiting: dict[int, tuple[socket.socket, str]] = {}
    silent, poll, deadline = set(), select.poll(), time.monotonic() + within_s
    for target in targets:
        attempt = socket.socket(socket.AF_INET6 if ":" in target.host else socket.AF_INET)
        attempt.setblocking(False)
        status = attempt.connect_ex((target.host, target.port))
        if status in (errno.EINPROGRESS, errno.EAGAIN):
            waiting[attempt.fileno()] = attempt, target.host
            poll.register(attempt, select.POLLOUT)
        else:
            silent |= {target.host} if _unreachable(status) else set()
            attempt.close()
    while waiting:
        # An answer that came while this process had to wait for a CPU counts: the last look is after the deadline.
        rest = deadline - time.monotonic()
        for descriptor, _ in poll.poll(max(0.0, rest * 1000)):
            attempt, host = waiting.pop(descriptor)
            poll.unregister(descriptor)
            silent |= {host} if _unreachable(attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) else set()
            attempt.close()
        if rest <= 0:
            break
    for attempt, host in waiting.values():
        silent.add(host)
        attempt.close()
    return silent


def _unreachable(status: int) -> bool:
    return status in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT)
