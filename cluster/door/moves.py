"""Which part of a model's requests goes to a second cluster, which serves the same versions on the same stores. Pure.

The desired shares are in the first cluster's Serve, as configuration of its root application; its doors read them with
the members.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from cluster.errors import RayloopError
from cluster.values import Stored

PARTS = 10_000
"""A share is a number of parts: keys are spread over that many."""
CLUSTER_HEADER = "x-rayloop-cluster"
"""In an answer, while a model is moving: which cluster it comes from. In a request: which one must answer."""
FIRST, SECOND = "first", "second"
# Keys of the door's map that no name of a model begins with.
_SECOND_POOL, _SHARE = "+", "%"
RESERVED = (_SECOND_POOL, _SHARE)

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Moves(Stored, stored_as="moves to a second cluster"):
    """Shares of requests that go to the second cluster."""

    address: str = ""
    """Dashboard of the second cluster; empty: there is none."""
    shares: Mapping[str, Share] = Field(default_factory=dict)
    """Share of each model that the doors reach there, also if it is 0."""
    writer: int = 0
    """Epoch of the actor that wrote this."""

    @classmethod
    def of_application(cls, declared: Mapping[str, Any]) -> Moves:
        """Read the configuration of the root application, as Serve has it; empty: it is not declared."""
        configs = (each["user_config"] for each in declared.get("deployments", ()) if each.get("user_config"))
        return cls.from_stored(next(configs, {}))

    def with_share(self, model: str, address: str, share: float) -> Moves:
        """Return the moves with another share of a model.

        Raises:
            RayloopError: Other models are moving to another cluster.
        """
        if (others := sorted(self.shares.keys() - {model})) and address != self.address:
            raise RayloopError("rayloop.move_elsewhere", address=self.address, models=others)
        return Moves(address=address, shares={**self.shares, model: share}, writer=self.writer)

    def without(self, model: str) -> Moves:
        """Return the moves without a model, whose requests all go to the first cluster."""
        shares = {name: share for name, share in self.shares.items() if name != model}
        return Moves(address=self.address if shares else "", shares=shares, writer=self.writer)


def second_key(model: str) -> str:
    """Key of the door's map: the pool of the model's replicas in the second cluster."""
    return f"{_SECOND_POOL}{model}"


def share_key(model: str) -> str:
    """Key of the door's map: the model's share, in parts."""
    return f"{_SHARE}{model}"


def is_share(key: str) -> bool:
    """Whether a key of the map is that of a share."""
    return key.startswith(_SHARE)


def share_parts(share: float) -> int:
    """Return a share in parts."""
    return round(share * PARTS)
