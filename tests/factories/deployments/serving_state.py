"""Serving states without models behind them, to test how requests are routed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from cluster.values import ModelVersion
from deployments.inference.serving_state import ServingState
from deployments.serve_schema import ServerConfig, TrafficSplit
from deployments.traffic_split import slice_start


def build_version(number: str) -> ModelVersion:
    return ModelVersion(model="trips", version=number, run_id="r", bundle_uri="file:///nowhere")


def build_split(*challengers: str, share: float = 0.2) -> TrafficSplit | None:
    """The split of the challengers, each with a slice of ``share``; None without any."""
    if not challengers:
        return None
    starts = tuple(slice_start(i, len(challengers)) for i in range(len(challengers)))
    versions = tuple(map(build_version, challengers))
    return TrafficSplit(rollout="r", timeout_s=1.0, challengers=versions, starts=starts, share=share)


def build_state(*challengers: str, share: float = 0.2) -> ServingState:
    """Version 1 as champion, and the challengers of a rollout."""
    config = ServerConfig(champion=build_version("1"), split=build_split(*challengers, share=share))
    champion = cast(Any, SimpleNamespace(version="1"))
    return ServingState(config, champion, cast(Any, None), dict.fromkeys(challengers, cast(Any, object())))
