"""Configuration of replicas through Serve's ``user_config``: plain JSON, applied without a restart. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from pydantic import ConfigDict, Field

from cluster.values import Frozen, ModelVersion, Stored, stored_name

ROOT_APP = "rayloop-front"
"""Name of the application for paths outside of models, whose configuration holds the moves to a second cluster."""
DEFAULT_ROWS = 4096
MAX_ONGOING_REQUESTS = 256
MAX_QUEUED_REQUESTS = 256
"""Most requests that wait in a replica beyond those in progress; more get 503."""
RETRY_AFTER_S = 1
REQUEST_TIMEOUT_S = 60.0
"""A request that takes longer gets 408."""


class RequestLimits(Frozen):
    """The largest request; beyond it, HTTP 413."""

    body_bytes: int = Field(default=16 * 1024 * 1024, ge=1)
    """Maximum size of a body in bytes; 16 MiB by default."""
    rows: int = Field(default=DEFAULT_ROWS, ge=1)
    """Maximum rows of a request."""


class Serving(Frozen):
    """A project's requirements for the replicas that answer for its model."""

    replicas: int = Field(default=1, ge=1)
    """Number of replicas."""
    cpus: float = Field(default=0.5, gt=0.0)
    """CPUs that each replica reserves."""
    limits: RequestLimits = RequestLimits()
    """The largest request."""


class TrafficSplit(Frozen):
    """How requests are split between the champion and the challengers of a rollout."""

    rollout: str
    """Id of the rollout, which also salts the split."""
    challengers: tuple[ModelVersion, ...] = Field(min_length=1)
    starts: tuple[float, ...] = (0.0,)
    """For each challenger, the start of its slice of the routing keys (traffic_split.py)."""
    share: float = Field(ge=0.0, le=1.0)
    """Share of the requests that each challenger gets."""
    timeout_s: float = Field(gt=0.0)
    """Time limit of a challenger's answer; beyond it the champion's is used."""
    shadow: bool = False
    """Challengers get copies of their share, and the champion answers all."""
    copies: float = Field(default=0.0, ge=0.0, le=1.0)
    """Fraction of the champion's routing keys whose requests a challenger also scores, at any ``share``, also at 0."""
    copy_cpus: float = Field(default=0.05, gt=0.0)
    """CPUs that copies may occupy, for each replica of the champion, of the time in which it is idle."""

    @property
    def champion_share(self) -> float:
        """Share of the requests that the champion keeps."""
        return 1.0 - len(self.challengers) * self.share

    def without(self, versions: Collection[str]) -> TrafficSplit | None:
        """The split in which the champion answers for those challengers; None when no challenger is left."""
        kept = [pair for pair in zip(self.challengers, self.starts, strict=True) if pair[0].version not in versions]
        if not kept:
            return None
        challengers, starts = zip(*kept, strict=True)
        return self.model_copy(update={"challengers": challengers, "starts": starts})


class Halt(Frozen):
    """Challengers that get no more requests; the journal, which is written after that, may not say so yet."""

    rollout: str
    """Id of the rollout."""
    versions: tuple[str, ...]
    reason: str
    """Why, for the journal."""


class ServerConfig(Stored, stored_as="model server configuration"):
    """What a ``ModelServer`` replica serves."""

    model_config = ConfigDict(serialize_by_alias=True)

    champion: ModelVersion
    split: Annotated[TrafficSplit | None, stored_name("split", "trial")] = None
    """None outside of a rollout."""
    epoch: int = 0
    """Epoch of the rollout controller that last changed this; one with a lower epoch may not."""
    writer: int = 0
    """Epoch of the actor that wrote this; a replica ignores what one with a lower epoch writes later."""
    halt: Halt | None = None
    """Challengers that later splits of their rollout must not contain."""
    profile_window_s: float | None = Field(default=3600.0, gt=0.0)
    """Width of a live profile's window in seconds; None: no profiles."""
    report: bool = True
    """Whether predictions are logged and profiled."""
    limits: RequestLimits = RequestLimits()


class ChallengerConfig(Stored, stored_as="configuration of a challenger"):
    """What a ``Challenger`` replica serves."""

    challenger: ModelVersion
    rollout: str
    max_growth_mib: float | None = None
    """Limit of the replica's memory growth in MiB; None: no limit."""


class PythonServerConfig(Stored, stored_as="configuration of a Python model"):
    """What a ``PythonServer`` replica serves."""

    version: ModelVersion
    rollout: str = ""
    """Rollout of the version while it is a challenger."""
    max_growth_mib: float | None = None
    """Limit of the replica's memory growth in MiB; None: no limit."""


def model_app_name(model: str) -> str:
    """Name of the Serve application that answers for ``model``."""
    return model


def challenger_app_name(model: str, rollout: str, version: str) -> str:
    """Name of a challenger's application, which exists while it is on trial. Model names contain no dot.

    The name is unique to the rollout, because Serve holds a name until the application is drained.
    """
    return f"{challenger_prefix(model)}{rollout}.{version}"


def python_app_name(version: ModelVersion) -> str:
    """Name of the application of a version's Python model; champion and challenger of one version share it."""
    return f"{python_prefix(version.model)}{version.version}"


def python_prefix(model: str) -> str:
    """Common prefix of the names of all applications of ``model`` that hold Python models."""
    return f"{model}.python."


def challenger_prefix(model: str) -> str:
    """Common prefix of the names of all challenger applications of ``model``."""
    return f"{model}.challenger."
