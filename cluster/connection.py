"""Connect this process to a Ray cluster."""

from __future__ import annotations

import logging
import os

from cluster.errors import ClusterUnavailable
from cluster.names import ACTOR_NAMESPACE
from cluster.node.session import gcs_address, is_running, require_current_layout
from cluster.node.token import read_token
from cluster.settings import Settings


def connect(settings: Settings, any_release: bool = False) -> None:
    """Connect this process to the cluster that it runs in, or to this home's cluster.

    Args:
        settings: Ports of this home's cluster.
        any_release: Connect even to a cluster of another release. Its actors return objects whose modules may not
            exist here, so call only methods that return plain values.

    Raises:
        ClusterUnavailable: No cluster is running, another release started it, or it does not answer.
    """
    import ray

    use_token()
    if ray.is_initialized():
        return
    if not in_job():
        if not is_running(settings):
            raise ClusterUnavailable("cluster.not_running")
        if not any_release:
            require_current_layout(settings)
    address = os.environ.get("RAY_ADDRESS") or gcs_address(settings)
    try:
        ray.init(address=address, namespace=ACTOR_NAMESPACE, logging_level=logging.WARNING, log_to_driver=False)
    except ConnectionError as error:
        raise ClusterUnavailable("cluster.no_answer", address=address) from error


def in_job() -> bool:
    """Whether this process is the driver of a Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def use_token() -> None:
    """Make Ray's clients in this process send the cluster's token, when there is one."""
    if "RAY_AUTH_MODE" in os.environ or not read_token():
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    from ray._raylet import Config  # type: ignore[attr-defined]

    # Ray read its environment when it was imported.
    Config.initialize("")
