"""Each kind of fault shows at a small server, and is over when it has ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.factories.until import until
from tests.hosts import clock
from tests.hosts.faults import STEP_S, FaultInjector, Service
from tests.hosts.host import Host
from tests.hosts.network import Network
from tests.hosts.process import Process
from tests.hosts.schedules import LONGEST_S, PlannedFault, Schedule

PORT = 8000
FOLDER = "/srv/shared"


class SmallServer:
    """A file server on a host with its own disk and clock; it can be stopped, and started again."""

    def __init__(self, host: Host) -> None:
        self.host = host
        host.run("mkdir", "-p", FOLDER)
        host.write(f"{FOLDER}/file", "here")
        self.process: Process = self.start()

    def start(self) -> Process:
        self.process = self.host.start("python", "-m", "http.server", str(PORT), "--directory", FOLDER)
        self.host.wait_for_port(PORT, self.process)
        return self.process

    def boot(self, host: Host) -> None:
        host.boot()
        self.start()

    def answers(self, client: Host) -> bool:
        fetch = ("curl", "--silent", "--fail", "--max-time", "1", f"http://{self.host.name}:{PORT}/file")
        return client.run(*fetch, check=False).stdout == "here"

    def clock_offset_s(self) -> float:
        return float(self.host.run("date", "+%s.%N").stdout) - time.time()


@pytest.fixture
def small_server(network: Network) -> SmallServer:
    host = network.hosts.get("faulty") or network.add("faulty", disk_mb=32, own_clock=clock.available())
    return SmallServer(host)


@pytest.fixture
def injector(network: Network, client: Host, small_server: SmallServer) -> Iterator[FaultInjector]:
    service = Service(lambda: small_server.process.stop(), small_server.start)
    with FaultInjector(network, [client], small_server.boot, {"faulty": service}) as injector:
        yield injector


def writable(host: Host) -> bool:
    write = "head -c 100000 /dev/zero >/root/more; status=$?; rm -f /root/more; exit $status"
    return host.run("sh", "-c", write, check=False).returncode == 0


@pytest.mark.parametrize("kind", LONGEST_S)
def test_fault_shows_until_it_ends(
    kind: str, injector: FaultInjector, client: Host, server: Host, small_server: SmallServer
) -> None:
    if kind.startswith("clock") and not small_server.host.own_clock:
        pytest.skip("cc is not installed")
    broken: dict[str, Callable[[], bool]] = {
        "kill": lambda: not small_server.host.up,
        "partition": lambda: not small_server.answers(server) and small_server.answers(client),
        "freeze": lambda: not small_server.answers(client),
        "clock-ahead": lambda: abs(small_server.clock_offset_s() - STEP_S) < 5,
        "clock-behind": lambda: abs(small_server.clock_offset_s() + STEP_S) < 5,
        "full-disk": lambda: not writable(small_server.host) and small_server.answers(client),
        "stop": lambda: not small_server.answers(client) and small_server.host.up,
    }
    assert small_server.answers(server)
    assert not broken[kind]()
    injector.begin(kind, "faulty")
    assert broken[kind]()
    injector.end(kind, "faulty")
    until(lambda: small_server.answers(client) and small_server.answers(server), "the server answers", 20)
    assert writable(small_server.host)
    assert abs(small_server.clock_offset_s()) < 5
    (fault,) = injector.past
    assert (fault.kind, fault.host) == (kind, "faulty")
    assert fault.began < fault.ended


def test_leaving_ends_faults_under_way(network: Network, client: Host, server: Host, small_server: SmallServer) -> None:
    with FaultInjector(network, [client]) as injector:
        injector.begin("partition", "faulty")
        injector.begin("freeze", "faulty")
        assert not small_server.answers(client)
    until(lambda: small_server.answers(client) and small_server.answers(server), "the server answers", 20)
    assert [fault.kind for fault in injector.past] == ["partition", "freeze"]


def test_partitions_of_two_hosts_end_one_by_one(
    network: Network, client: Host, server: Host, small_server: SmallServer
) -> None:
    third = network.hosts.get("third") or network.add("third")
    with FaultInjector(network, [client]) as injector:
        injector.begin("partition", "faulty")
        injector.begin("partition", "server")
        injector.end("partition", "faulty")
        assert small_server.answers(third)
        assert not small_server.answers(server)
        injector.end("partition", "server")
        assert small_server.answers(server)


def test_schedule_is_played_in_its_order_with_lanes_side_by_side(
    injector: FaultInjector, client: Host, small_server: SmallServer
) -> None:
    first, second = PlannedFault(0.1, "freeze", "faulty", 0.5), PlannedFault(0.2, "stop", "faulty", 0.2)
    other = PlannedFault(0.1, "partition", "server", 1.0)
    injector.play(Schedule(((first, second), (other,))))
    past = {fault.kind: fault for fault in injector.past}
    assert set(past) == {"freeze", "stop", "partition"}
    assert past["freeze"].ended <= past["stop"].began
    assert past["partition"].began < past["freeze"].ended
    assert past["freeze"].ended - past["freeze"].began >= 0.5
    assert small_server.answers(client)


def test_host_that_a_schedule_kills_outlives_the_schedule(
    injector: FaultInjector, client: Host, small_server: SmallServer
) -> None:
    injector.play(Schedule(((PlannedFault(0.0, "kill", "faulty", 0.1),),)))
    assert injector.past
    assert small_server.answers(client)


def test_schedule_that_is_interrupted_ends_its_faults(
    network: Network, client: Host, server: Host, small_server: SmallServer
) -> None:
    with FaultInjector(network, [client]) as injector:
        long = Schedule(((PlannedFault(0.0, "partition", "faulty", 60.0),),))
        player = threading.Thread(target=injector.play, args=(long,))
        player.start()
        until(lambda: not small_server.answers(server), "the partition begins", 20)
    player.join(10)
    assert not player.is_alive()
    assert [fault.kind for fault in injector.past] == ["partition"]
    assert small_server.answers(server)


def test_schedule_that_plays_meanwhile_ends_with_the_block_that_fails(
    network: Network, client: Host, server: Host, small_server: SmallServer
) -> None:
    def fail_meanwhile() -> None:
        with injector.playing(Schedule(((PlannedFault(0.0, "partition", "faulty", 60.0),),))):
            until(lambda: not small_server.answers(server), "the partition begins", 20)
            raise LookupError

    with FaultInjector(network, [client]) as injector:
        with pytest.raises(LookupError):
            fail_meanwhile()
        assert small_server.answers(server)


def test_fault_of_the_machine_itself_is_refused(network: Network, client: Host, server: Host) -> None:
    with FaultInjector(network, [client]) as injector:
        for kind in ("full-disk", "clock-ahead"):
            with pytest.raises(AssertionError, match="machine's"):
                injector.begin(kind, "server")
