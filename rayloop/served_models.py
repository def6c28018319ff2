"""The models that this cluster serves or has served, by their prediction logs."""

from __future__ import annotations

from collections.abc import Callable

import ray

from cluster import connection
from cluster.actors import find_actor
from cluster.names import ACTOR_NAMESPACE, log_writer_actor
from cluster.settings import Settings

_FLUSH_S = 30.0


def list_models() -> list[str]:
    """Names of the models that have a log writer on this cluster, in order."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    names = [actor["name"] for actor in actors if actor["namespace"] == ACTOR_NAMESPACE]
    prefix = log_writer_actor("")
    return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def flush_logs(settings: Settings, print_line: Callable[[str], None]) -> None:
    """Commit the rows that the prediction logs still hold in memory, and disconnect."""
    # `rayloop down` stops a cluster of another release too; without this flush its log would lose rows.
    connection.connect(settings, any_release=True)
    for model in list_models():
        if (actor := find_actor(log_writer_actor(model))) is not None:
            counts = ray.get(actor.flush.remote(), timeout=_FLUSH_S)
            print_line(f"{model}: log committed, {counts['predictions']:,} predictions and {counts['labels']:,} labels")
    ray.shutdown()
