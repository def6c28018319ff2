"""Named actors of this cluster."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayTaskError

from cluster.errors import RayloopError
from cluster.names import ACTOR_NAMESPACE


def exists(actor: str) -> bool:
    """Whether a named actor of this cluster is there."""
    return {"name": actor, "namespace": ACTOR_NAMESPACE} in ray.util.list_named_actors(all_namespaces=True)


def find(actor: str) -> Any:
    """A named actor of this cluster; None when it is not there."""
    try:
        return ray.get_actor(actor, namespace=ACTOR_NAMESPACE)
    except ValueError:
        return None


def call(reference: ray.ObjectRef) -> Any:
    """Wait for an actor's answer; its RayloopError comes out as itself, not wrapped in Ray's."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, RayloopError):
            raise cause from error
        raise
