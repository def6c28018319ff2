"""Turns a replica's configuration into what it serves: loads the champion, connects to the challengers."""

from __future__ import annotations

import asyncio
import logging

import ray
from ray import serve

from cluster.settings import Settings
from deployments.inference.challenger_client import ChallengerClient
from deployments.inference.predictor import Scorer
from deployments.inference.serving_state import ServingState
from deployments.protocol.open_inference import InferRequestParser
from deployments.serve_schema import ServerConfig, challenger_app_name

_CONNECT_TIMEOUT_S = 5.0

_log = logging.getLogger(__name__)


async def load_state(config: ServerConfig, settings: Settings, before: ServingState | None) -> ServingState:
    """Load what ``config`` names while the old state is served, and reuse what both have in common.

    Args:
        config: What to serve.
        settings: Settings of this process.
        before: What is served now.

    Raises:
        RayloopError: The champion cannot be loaded.
    """
    if before is not None and before.config.champion == config.champion:
        champion = before.champion
    else:
        champion = await asyncio.to_thread(Scorer, config.champion, settings)
        await champion.start()
    parser = InferRequestParser(champion.manifest.features, champion.manifest.task, config.limits.rows)
    return ServingState(config, champion, parser, await _connect_challengers(config, before))


def close_stale(before: ServingState, now: ServingState) -> None:
    """Close the connections to challengers that are no longer on trial, and those of another champion."""
    if before.champion is not now.champion:
        before.champion.close()
    for client in set(before.challengers.values()) - set(now.challengers.values()):
        client.close()


async def _connect_challengers(config: ServerConfig, before: ServingState | None) -> dict[str, ChallengerClient]:
    """A client for each challenger on trial, by version; keeps those of the same rollout."""
    if config.split is None:
        return {}
    same_rollout = before is not None and before.config.split and before.config.split.rollout == config.split.rollout
    known = before.challengers if before is not None and same_rollout else {}
    versions = [challenger.version for challenger in config.split.challengers]
    names = [challenger_app_name(config.champion.model, config.split.rollout, version) for version in versions]
    connecting = {v: _connect(name) for v, name in zip(versions, names, strict=True) if v not in known}
    new = dict(zip(connecting, await asyncio.gather(*connecting.values()), strict=True))
    return {version: new.get(version) or known[version] for version in versions}


async def _connect(app: str) -> ChallengerClient:
    client = ChallengerClient(serve.get_deployment_handle("Challenger", app), ray.get_runtime_context().get_node_id())
    # A handle's first call finds its replicas, which no caller should wait for.
    try:
        await asyncio.wait_for(client.connect(), _CONNECT_TIMEOUT_S)
    except Exception:
        _log.exception("the challenger does not answer yet; its failures count against it")
    return client
