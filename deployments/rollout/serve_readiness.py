"""Waits until what Serve's configuration says is so: in its replicas, and in the door."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from ray import serve

from cluster.door.probe import door_status
from cluster.errors import RayloopError
from cluster.limits import within
from cluster.settings import Settings
from deployments import serve_schema
from deployments.ingress import root_app
from deployments.rollout.applications import server_config
from deployments.rollout.serve_details import (
    MODEL_DEPLOYMENT,
    declared_applications,
    failure_message,
    is_running,
    read_serve_details,
    running_replicas,
)

_POLL_S = 0.1


class ServeReadiness:
    """Waits for Serve.

    Args:
        settings: Addresses of Serve and of the door.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def await_running(self, app: str, deadline: float) -> None:
        """Wait until an application runs. Raises RayloopError when it fails, or is late."""
        await self._await(lambda details: is_running(details, app), deadline - time.monotonic(), app)

    async def await_applied(self, model: str, deadline: float) -> None:
        """Wait until every replica confirms that it serves what the configuration says."""
        app = serve_schema.model_app_name(model)
        await self.await_running(app, deadline)
        details = await read_serve_details(self._settings)
        config = server_config(declared_applications(details), model)
        if config is None:
            raise RayloopError("rayloop.model_not_deployed", model=model)
        replicas = len(running_replicas(details, app))
        split = config.split.model_dump_json() if config.split else ""
        handle = serve.get_deployment_handle(MODEL_DEPLOYMENT, app)
        confirmed: set[str] = set()
        while len(confirmed) < replicas:
            remaining_s = max(deadline - time.monotonic(), _POLL_S)
            state = await within(remaining_s, f"a replica of {model}", handle.state.remote())
            if state["failure"]:
                raise RayloopError(
                    "rayloop.change_not_applied", model=model, version=state["version"], failure=state["failure"]
                )
            applied = (state["version"], state["trial"]) == (config.champion.version, split)
            if applied and state["replica"] not in confirmed:
                confirmed.add(state["replica"])
                continue
            if time.monotonic() > deadline:
                if applied:
                    # The calls to a replica that does not answer go to the others.
                    raise RayloopError(
                        "rayloop.replicas_silent", model=model, silent=replicas - len(confirmed), replicas=replicas
                    )
                raise RayloopError(
                    "rayloop.replica_late", model=model, version=state["version"], expected=config.champion.version
                )
            await asyncio.sleep(_POLL_S)

    async def await_removed(self, model: str, limit_s: float) -> None:
        """Wait until Serve has no application of a model. Raises RayloopError when it is late."""
        app = serve_schema.model_app_name(model)
        await self._await(lambda details: app not in details["applications"], limit_s, model)

    async def await_drained(self, app: str, limit_s: float) -> None:
        """Wait until Serve has no application of this name that it removes: its name is taken until then."""

        def is_free(details: dict[str, Any]) -> bool:
            return app not in details["applications"] or app in declared_applications(details)

        await self._await(is_free, limit_s, app)

    async def await_in_door(self, model: str, deadline: float, limit_s: float) -> None:
        """Wait until this host's door, if there is one, has a replica. Other hosts' have it within half a second."""
        path = f"{root_app.ROOT_ROUTE}/models/{model}/ready"
        while (status := await asyncio.to_thread(door_status, self._settings, path)) not in (None, 200):
            if time.monotonic() > deadline:
                message = "the door does not reach it"
                raise RayloopError(
                    "rayloop.deployment_late", app=model, status=status, message=message, limit_s=limit_s
                )
            await asyncio.sleep(_POLL_S)

    async def _await(self, holds: Callable[[dict[str, Any]], bool], limit_s: float, app: str) -> None:
        deadline = time.monotonic() + limit_s
        while True:
            details = await read_serve_details(self._settings)
            if holds(details):
                return
            if time.monotonic() > deadline:
                report = details["applications"].get(app, {})
                status, message = report.get("status", "absent"), failure_message(report)
                raise RayloopError("rayloop.deployment_late", app=app, status=status, message=message, limit_s=limit_s)
            await asyncio.sleep(_POLL_S)
