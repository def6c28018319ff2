"""One Ray cluster, with Serve's doors and an MLflow store, for the whole run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from cluster import connection, local_cluster
from cluster.settings import Settings


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
            # Keep Ray's logs of a failed run.
            shutil.rmtree(settings.scratch, ignore_errors=True)
