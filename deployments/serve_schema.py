"""What replicas are told through Serve's ``user_config``: plain JSON, applied without a restart."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from cluster.values import Frozen, ModelVersion, Stored

DEFAULT_BODY_BYTES = 16 * 1024 * 1024
DEFAULT_ROWS = 4096
MAX_ONGOING_REQUESTS = 256
MAX_QUEUED_REQUESTS = 256
"""Requests that wait in a replica beyond those it works on; more are answered with 503."""
RETRY_AFTER_S = 1
REQUEST_TIMEOUT_S = 60.0
"""After it a request is answered with 408."""


class RequestLimits(Frozen):
    """The largest request that is answered; beyond it, HTTP 413."""

    body_bytes: int = Field(default=DEFAULT_BODY_BYTES, ge=1)
    rows: int = Field(default=DEFAULT_ROWS, ge=1)


class Serving(Frozen):
    """What a project asks of the replicas that answer for its model: how many, the CPUs of each, the largest request."""

    replicas: int = Field(default=1, ge=1)
    cpus: float = Field(default=0.5, gt=0.0)
    limits: RequestLimits = RequestLimits()


class RolloutTrial(Frozen):
    """The challengers on trial, and the share of the requests that each of them has. ``rollout`` also salts the split.

    ``starts`` says for each challenger where its slice of the routing keys begins (deployments/inference/traffic_split.py). With
    ``shadow`` challengers get a copy of their share, and the champion answers all.
    """

    rollout: str
    challengers: tuple[ModelVersion, ...] = Field(min_length=1)
    starts: tuple[float, ...] = (0.0,)
    share: float = Field(ge=0.0, le=1.0)
    timeout_s: float = Field(gt=0.0)
    shadow: bool = False

    @property
    def champion_share(self) -> float:
        """What is left to the champion."""
        return 1.0 - len(self.challengers) * self.share


class ServerConfig(Stored):
    """What a ``ModelServer`` replica serves.

    ``profile_window_s`` is the width of a live profile's window, None for no profile; without ``report`` nothing is
    logged or profiled.
    """

    stored_as: ClassVar[str] = "configuration of a model server"

    champion: ModelVersion
    trial: RolloutTrial | None = None
    profile_window_s: float | None = Field(default=3600.0, gt=0.0)
    report: bool = True
    limits: RequestLimits = RequestLimits()


class ChallengerConfig(Stored):
    """What a ``Challenger`` replica serves, in which rollout, and by how many MiB it may grow (None: by any)."""

    stored_as: ClassVar[str] = "configuration of a challenger"

    challenger: ModelVersion
    rollout: str
    max_growth_mib: float | None = None


def model_app_name(model: str) -> str:
    """Name of the Serve application that answers for ``model``."""
    return model


def challenger_app_name(model: str, rollout: str, version: str) -> str:
    """Name of a challenger's application, which exists while it is on trial. Model names hold no dot.

    A name of its own in each rollout: Serve takes its time to drain an application, and until then its name.
    """
    return f"{challenger_prefix(model)}{rollout}.{version}"


def challenger_prefix(model: str) -> str:
    """What the names of all challengers' applications of ``model`` begin with."""
    return f"{model}.challenger."
