"""Named actors of this cluster."""

from __future__ import annotations

import ray

from cluster.contracts import ACTOR_NAMESPACE


def exists(actor: str) -> bool:
    """Whether a named actor of this cluster is there."""
    return {"name": actor, "namespace": ACTOR_NAMESPACE} in ray.util.list_named_actors(all_namespaces=True)
