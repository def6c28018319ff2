"""One network of hosts for the whole run; tests add theirs, and get them back without faults."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.hosts import clock
from tests.hosts.certificates import CA, CERTIFICATE, KEY, Authority
from tests.hosts.host import Host
from tests.hosts.launcher import AT_HOME, PROGRAMS, RUN_S, VARIABLES, Cluster
from tests.hosts.network import HostsUnavailable, Network, require
from tests.hosts.remote_stores import RemoteStores

PROJECT = Path(__file__).with_name("visits.py")
SMALL = {"RAY_DEFAULT_OBJECT_STORE_MEMORY_PROPORTION": "0.02"}
"""For a machine that holds all hosts."""
DISK_MB = 8192
"""Of a node, whose disk may get full. In memory, of which it takes what is written."""
DOOR_CERTIFICATE = "/srv/tls/door.pem"
DOOR = {
    "RAYLOOP_SERVE_HOST": "0.0.0.0",
    "RAYLOOP_DOOR": "1",
    "RAYLOOP_DOOR_PEER_CERTIFICATE": DOOR_CERTIFICATE,
    "RAYLOOP_DOOR_PEER_AUTHORITY": CA,
}
"""A door on every node; what they send each other is encrypted."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "hosts" and item.path.parent.parent.name == "tests":
            item.add_marker(pytest.mark.hosts)


@pytest.fixture(scope="session")
def shared_network() -> Iterator[Network]:
    with ExitStack() as stack:
        try:
            network = stack.enter_context(Network())
        except HostsUnavailable as reason:
            pytest.skip(str(reason))
        yield network


@pytest.fixture
def network(shared_network: Network) -> Iterator[Network]:
    """The run's network; the test's faults and processes end with it."""
    before = shared_network.processes()
    yield shared_network
    shared_network.restore()
    for process in shared_network.processes():
        if process not in before:
            process.stop(signal.SIGKILL)


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def client(network: Network, authority: Authority) -> Host:
    """A host that holds no service, and trusts the authority."""
    return _named(network, "client", authority)


@pytest.fixture
def server(network: Network, authority: Authority) -> Host:
    return _named(network, "server", authority)


def _named(network: Network, name: str, authority: Authority) -> Host:
    host = network.hosts.get(name) or network.add(name)
    authority.trust(host)
    return host


@pytest.fixture(scope="session")
def stores(shared_network: Network, authority: Authority) -> RemoteStores:
    pytest.importorskip("psycopg2")
    pytest.importorskip("boto3")
    if "rayloop" not in entry_points(group="mlflow.app").names:
        pytest.skip("the installed package is older than MLflow's login: install it again")
    return RemoteStores(shared_network, authority, "up")


@pytest.fixture(scope="session")
def arguments() -> Iterator[set[str]]:
    """Argument lists of every process on the machine, hosts included, once a cluster runs."""
    seen: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    seen.add(path.read_text(errors="replace"))

    thread = threading.Thread(target=watch)
    thread.start()
    yield seen
    ended.set()
    thread.join()


@pytest.fixture(scope="session")
def cluster(
    shared_network: Network, authority: Authority, stores: RemoteStores, arguments: set[str]
) -> Iterator[Cluster]:
    try:
        require(PROGRAMS)
    except HostsUnavailable as reason:
        pytest.skip(str(reason))
    client = shared_network.add("up-client")
    names = ("head", "worker1", "worker2")
    head, *workers = (shared_network.add(f"up-{n}", DISK_MB, own_clock=clock.available()) for n in names)
    for host in (client, head, *workers):
        authority.trust(host)
    cluster = Cluster(client, head, workers)
    for host in cluster.nodes:
        authority.equip(host)
        host.write(DOOR_CERTIFICATE, host.path(CERTIFICATE).read_text() + host.path(KEY).read_text())
    cluster.write_files(SMALL | DOOR | stores.variables())
    stores.create_bucket(client, VARIABLES)
    yield cluster
    for host in (client, *cluster.nodes, stores.postgres.host, stores.redis.host, stores.s3.host):
        host.kill()


@pytest.fixture(scope="session")
def outputs(cluster: Cluster) -> list[str]:
    """What the launcher printed, twice in a row."""
    return [cluster.launch(), cluster.launch()]


@pytest.fixture(scope="session")
def served(cluster: Cluster, outputs: list[str]) -> list[str]:
    """What Ray's own command printed when it ran the project, which is in a folder of the client."""
    cluster.client.write("/root/project/visits.py", PROJECT.read_text())
    submit = ("ray", "job", "submit", "--working-dir", "/root/project", "--")
    environment = {"RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "token"}
    command = ("python", "-m", "rayloop", "run", "visits.py")
    run = cluster.client.run(*submit, *command, env=environment, timeout_s=RUN_S, check=False)
    outputs.append(run.stdout + run.stderr)
    assert run.returncode == 0, outputs[-1][-6000:]
    return outputs


@pytest.fixture(scope="session")
def key(cluster: Cluster, served: list[str]) -> str:
    """A caller's key."""
    create = (*AT_HOME, "ray", "exec", "ray-cluster.yaml", "python -m rayloop keys create caller --model visits")
    return re.findall(r"^rayloop_\S+", cluster.client.run(*create, timeout_s=RUN_S).stdout, re.MULTILINE)[0]
