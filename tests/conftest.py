"""One Ray cluster, with Serve's doors and an MLflow store, for the whole run."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator

import hypothesis
import pytest

from cluster import connection, local_cluster
from cluster.settings import Settings

# The machine may be busy with a cluster: how long an example takes says nothing.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a home and of ports that nobody else uses.

    Models stay served while others train: with fewer CPUs a fit's workers would leave none to the tasks that feed them.
    """
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
        **{p: local_cluster.free_port() for p in ports},
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


@pytest.fixture(scope="session")
def cluster(settings: Settings, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """The running cluster, and this process connected to it."""
    import ray

    local_cluster.start(settings)
    connection.use_token()
    os.environ.update(settings.environment())
    try:
        connection.connect(settings)
        yield settings
    finally:
        ray.shutdown()
        local_cluster.stop(settings)
        if not request.session.testsfailed:
            # Ray's logs; of a failed run somebody will want to read them.
            shutil.rmtree(settings.scratch, ignore_errors=True)
