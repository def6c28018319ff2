"""One network of hosts for the whole run; tests add theirs, and get them back without faults."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.hosts.certificates import Authority
from tests.hosts.host import Host
from tests.hosts.network import HostsUnavailable, Network


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
