"""One Ray cluster, with Serve's doors and an MLflow store, for the whole run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest

from cluster import session
from cluster.settings import Settings

# The machine may be busy with a cluster: how long an example takes says nothing.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a home and of ports that nobody else uses.

    Models stay served while others train: with fewer CPUs a fit's workers would leave none to the tasks that feed them.
    """
    ports = ("dashboard_port", "serve_port", "gcs_port", "mlflow_port", "haproxy_stats_port", "haproxy_metrics_port")
    return Settings(
        home=tmp_path_factory.mktemp("home"),
        cpus=8,
        replica_ports_from=34000,
        **{p: session.free_port() for p in ports},
    )


@pytest.fixture(scope="session")
def cluster(settings: Settings) -> Iterator[Settings]:
    """The running cluster, and this process connected to it."""
    import ray

    session.start(settings)
    session.use_token()
    os.environ.update(settings.environment())
    try:
        session.connect(settings)
        yield settings
    finally:
        ray.shutdown()
        session.stop(settings)
