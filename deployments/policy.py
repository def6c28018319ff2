"""What a user declares about a rollout."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cluster.contracts import Frozen
from cluster.errors import RolloutError


class RolloutPolicy(Frozen):
    """Steps of a rollout, and what is asked of a challenger at each.

    ``steps`` are shares of requests, rising to 1. ``margin`` is how much larger than the champion's the challenger's
    mean loss may be for it to advance, as a fraction of it; ``max_error_rate`` how many of the requests that the champion could answer
    it may fail. ``alpha`` bounds the probability of a wrong abort, and of a wrong advance, over a whole rollout.
    ``min_requests`` and ``min_labelled`` (rows) are counted anew at each step. After ``deadline_s`` seconds at one
    step without a decision, ``on_undecided`` applies; "advance" only where the minimum counts are met.
    """

    steps: tuple[float, ...] = (0.05, 0.25, 0.5, 1.0)
    min_requests: int = Field(default=50, ge=1)
    min_labelled: int = Field(default=50, ge=1)
    margin: float = Field(default=0.05, ge=0.0)
    max_error_rate: float = Field(default=0.02, gt=0.0, lt=1.0)
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    deadline_s: float = Field(default=3600.0, gt=0.0)
    on_undecided: Literal["hold", "abort", "advance"] = "abort"
    poll_s: float = Field(default=1.0, gt=0.0)
    challenger_timeout_s: float = Field(default=1.0, gt=0.0)

    @model_validator(mode="after")
    def _steps_rise_to_one(self) -> Self:
        rising = all(a < b for a, b in zip(self.steps, self.steps[1:], strict=False))
        if not self.steps or not rising or self.steps[0] <= 0.0 or self.steps[-1] != 1.0:
            raise RolloutError(f"rollout steps {self.steps} do not rise to 1", "declare some like (0.05, 0.5, 1.0)")
        return self

    @property
    def pairs_needed(self) -> int:
        """Labelled rows before loss may abort: the confidence sequence is asymptotic."""
        return max(self.min_labelled, 50)

    @property
    def optimum(self) -> int:
        """Labelled rows at which the confidence sequence is sharpest."""
        return 4 * self.pairs_needed
