"""What a person orders about a rollout. It loads little: such an order is in a hurry."""

from __future__ import annotations

from collections.abc import Callable

from cluster import connection
from cluster.actors import find_actor, get_result
from cluster.errors import RolloutError
from cluster.names import rollout_actor
from cluster.settings import Settings
from deployments.rollout.state_machine import RolloutState, named


def send_command(
    settings: Settings,
    model: str,
    order: str,
    reason: str,
    tell: Callable[[str], None],
    version: str = "",
    rollout: str = "",
) -> None:
    """Give the rollout of ``model`` an order: about one ``version``, for one ``rollout``, where it names them."""
    connection.connect(settings)
    actor = find_actor(rollout_actor(model))
    if actor is None:
        raise RolloutError(f"{model!r} has no rollout on this cluster", "see `rayloop status`")
    about = [version] if version else []
    state = get_result(getattr(actor, order).remote(reason, *about, rollout=rollout)).state
    tell(f"{model}: rollout {state.id} {rollout_summary(state)}: {state.reason}")


def rollout_summary(state: RolloutState) -> str:
    """A rollout that has ended has no share; it names who was promoted, or fell, for either may be champion no more."""
    if state.active:
        return f"{state.status} at {100 * state.share:.3g}%"
    return state.status if state.status == "aborted" else f"{state.status} {named(state.challengers)}"
