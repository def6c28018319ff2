"""Commands to a rollout. This module imports little: a person who aborts a rollout is in a hurry."""

from __future__ import annotations

import typer

from cluster import connection
from cluster.actors import find_actor, get_result
from cluster.errors import RolloutError
from cluster.names import rollout_actor
from cluster.settings import Settings
from deployments.rollout.state_machine import RolloutState, format_versions


def send_command(settings: Settings, model: str, command: str, reason: str, version: str, rollout: str) -> None:
    """Send a command to the model's rollout and print the state that follows.

    Args:
        settings: Which cluster.
        model: Name of the model.
        command: "promote", "abort", "pause" or "resume".
        reason: For the rollout journal.
        version: The challenger that the command is about; empty for the only one.
        rollout: Id of the rollout that the command is for; empty for the current one.

    Raises:
        RolloutError: The model has no rollout, or the rollout refuses the command.
    """
    connection.connect(settings)
    actor = find_actor(rollout_actor(model))
    if actor is None:
        raise RolloutError("rollout.not_found", model=model)
    about = [version] if version else []
    state = get_result(getattr(actor, command).remote(reason, *about, rollout=rollout)).state
    typer.echo(f"{model}: rollout {state.id} {rollout_summary(state)}: {state.reason}")


def rollout_summary(state: RolloutState) -> str:
    """Summarize a rollout's status: with its share while it is active, with the version that was promoted after it."""
    if state.active:
        return f"{state.status} at {100 * state.share:.3g}%"
    return state.status if state.status == "aborted" else f"{state.status} {format_versions(state.challengers)}"
