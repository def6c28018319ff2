"""Named actors of this cluster."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import ray
from ray.actor import ActorHandle, exit_actor
from ray.exceptions import AsyncioActorExit, RayTaskError
from ray.experimental import internal_kv

from cluster.errors import RayloopError
from cluster.names import ACTOR_NAMESPACE


def get_or_create(name: str, actor_class: type, *arguments: object, **options: object) -> ActorHandle[Any]:
    """Return the named actor of this cluster; create it when it is absent.

    The actor outlives its creator, restarts without limit and reserves no CPU.

    Args:
        name: Name of the actor in rayloop's namespace; see cluster/names.py.
        actor_class: Plain class of the actor; it is wrapped by ``ray.remote`` here.
        arguments: Constructor arguments. An actor that exists already ignores them.
        options: Ray actor options beyond those above, such as ``max_concurrency``.
    """
    actor: Any = ray.remote(actor_class)
    return actor.options(
        name=name,
        namespace=ACTOR_NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        num_cpus=0,
        **options,
    ).remote(*arguments)


def end_actor() -> None:
    """End this actor when its calls have returned. Ray does not restart it, and its name becomes free."""
    with suppress(AsyncioActorExit):
        exit_actor()


def session_name() -> str:
    """Name of this cluster's session; it survives a head that keeps its state."""
    return str(ray.get_runtime_context().get_session_name())


def take_epoch(actor: str) -> int:
    """Return a number greater than those of all earlier actors of this name, from where Ray keeps its own state."""
    epoch = 1
    while internal_kv._internal_kv_put(f"{actor}:{epoch}", b"", overwrite=False, namespace=ACTOR_NAMESPACE):
        epoch += 1
    return epoch


def is_newest(actor: str, epoch: int) -> bool:
    """Whether no actor of this name has taken a greater number."""
    return not internal_kv._internal_kv_exists(f"{actor}:{epoch + 1}", namespace=ACTOR_NAMESPACE)


def ask_head() -> None:
    """Return when the cluster's head has answered, however long that takes."""
    internal_kv._internal_kv_exists(b"", namespace=ACTOR_NAMESPACE)


def actor_exists(actor: str) -> bool:
    """Whether this cluster has an actor of this name."""
    return {"name": actor, "namespace": ACTOR_NAMESPACE} in ray.util.list_named_actors(all_namespaces=True)


def find_actor(actor: str) -> Any:
    """Return the named actor of this cluster; None when it does not exist."""
    try:
        return get_actor(actor)
    except ValueError:
        return None


def get_actor(actor: str) -> Any:
    """Return the named actor of this cluster, which must exist.

    Raises:
        ValueError: It does not.
    """
    return ray.get_actor(actor, namespace=ACTOR_NAMESPACE)


def get_result(reference: ray.ObjectRef[Any], limit_s: float | None = None) -> Any:
    """Wait for the result of an actor's method; a RayloopError is raised as itself, without Ray's RayTaskError.

    Raises:
        GetTimeoutError: It takes longer than ``limit_s`` seconds.
    """
    try:
        return ray.get(reference, timeout=limit_s)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, RayloopError):
            raise cause from error
        raise
