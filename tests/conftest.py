"""What every test shares. Only light imports here: one file of pure tests should start within a second."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.factories import effort

if TYPE_CHECKING:
    from cluster.settings import Settings
    from tests.factories.deployments.endpoint import Endpoint


if "PYTEST_XDIST_WORKER" in os.environ:
    # As many processes as cores: threads of two would wait for each other, and spin.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run long tests too, and properties with all their examples")


def pytest_configure(config: pytest.Config) -> None:
    effort.use_full(config.getoption("--long"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Set Hypothesis up before the first module that uses it; the import is half of what a pure test needs to start."""
    if isinstance(collector, pytest.Module) and b"hypothesis" in collector.path.read_bytes():
        import tests.factories.hypothesis_profile  # noqa: F401


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave out Hypothesis where no test uses it: the summary of its plugin would import it, which takes 2 s."""
    plugins = session.config.pluginmanager
    if "hypothesis" not in sys.modules and plugins.has_plugin("hypothesispytest"):
        plugins.unregister(name="hypothesispytest")


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    from tests.factories.deployments.endpoint import Endpoint

    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings with their own home and ports.

    Models stay served while others train: with fewer CPUs a fit's workers would leave none to the tasks that feed them.
    """
    from cluster.node.ports import free_port
    from cluster.settings import Settings

    ports = (
        "dashboard_port",
        "serve_port",
        "grpc_port",
        "gcs_port",
        "mlflow_port",
        "haproxy_stats_port",
        "haproxy_metrics_port",
    )
    return Settings(
        home=tmp_path_factory.mktemp("home"),
        cpus=8,
        replica_ports_from=_replica_ports(),
        **{p: free_port() for p in ports},
    )


def _replica_ports() -> int:
    """Where 1,002 ports begin that no other cluster of this machine uses; below those the system gives out."""
    starts = range(12_000, 31_000, 1_100)
    first = os.getpid() % len(starts)
    for start in [*starts[first:], *starts[:first]]:
        with socket.socket() as fallback:
            if fallback.connect_ex(("127.0.0.1", start + 1_000)):
                return start
    raise AssertionError("every range of replica ports is in use")
