"""Hosts that are gone: only silence counts."""

from __future__ import annotations

import socket
import time

from cluster.door.host_probe import MISSES, PERIOD_S, HostProbe, silent_hosts
from cluster.door.membership import Membership, Replica, Target
from tests.factories.until import until

REFUSES = Target(host="127.0.0.1", port=1)


def full_listener() -> tuple[list[socket.socket], Target]:
    """A listener whose queue is full: the kernel drops further attempts, as those to a host that is gone."""
    listener = socket.socket()
    listener.bind(("127.0.0.2", 0))
    listener.listen(0)
    first = socket.create_connection(listener.getsockname())
    return [listener, first], Target(host="127.0.0.2", port=listener.getsockname()[1])


def test_refusal_and_acceptance_are_answers_and_silence_is_none() -> None:
    sockets, silent = full_listener()
    with socket.create_server(("127.0.0.3", 0)) as server:
        accepts = Target(host="127.0.0.3", port=server.getsockname()[1])
        assert silent_hosts([REFUSES, accepts, silent], PERIOD_S) == {"127.0.0.2"}
    for each in sockets:
        each.close()


def test_answer_that_came_in_time_counts_however_late_it_is_read() -> None:
    with socket.create_server(("127.0.0.3", 0)) as server:
        assert silent_hosts([Target(host="127.0.0.3", port=server.getsockname()[1])], 0.0) == set()


def test_host_is_gone_after_misses_in_a_row_and_back_with_one_answer() -> None:
    probe, (sockets, silent) = HostProbe(), full_listener()
    probe.watch([silent, REFUSES])
    started = time.monotonic()
    probe.start()
    try:
        until(lambda: probe.gone() == {"127.0.0.2"}, "the host is gone", 20)
        assert time.monotonic() - started >= (MISSES - 1) * PERIOD_S
        for each in sockets:
            each.close()
        until(lambda: not probe.gone(), "the host is back", 20)
    finally:
        probe.stop()


def test_host_with_a_stuck_replica_is_not_gone() -> None:
    probe, (sockets, silent) = HostProbe(), full_listener()
    with socket.create_server(("127.0.0.2", 0)) as server:
        probe.watch([silent, Target(host="127.0.0.2", port=server.getsockname()[1])])
        probe.start()
        try:
            server.settimeout(20)
            # Between two of these it has tried the one that is silent.
            for _ in range(MISSES + 2):
                server.accept()[0].close()
                assert not probe.gone()
        finally:
            probe.stop()
    for each in sockets:
        each.close()


def test_only_addresses_of_other_interfaces_are_probed() -> None:
    remote = Replica(http=Target(host="10.0.0.7", port=31500), peer=True)
    members = Membership(root=(remote,), models={"a": (Replica(http=REFUSES), remote)})
    assert set(members.remote_targets()) == {remote.http}
