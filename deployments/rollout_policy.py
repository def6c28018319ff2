"""What a user declares about a rollout."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import AliasChoices, ConfigDict, Field, model_validator

from cluster.errors import RolloutError
from cluster.row_losses import Metric
from cluster.values import Frozen
from deployments.freeze_windows import FreezeWindow

DefaultAction = Literal["hold", "abort", "advance"]


class Webhook(Frozen):
    """An address that is told of each step, as JSON by POST (deployments/rollout/webhook_client.py).

    One that is called ``before`` has a say: an answer other than 2xx, or none within ``timeout_s``, holds the step, and
    it is asked again after ``retry_s``. Nothing but telling comes of one called ``after``. ``secret_env`` names the
    environment variable, of the cluster's processes, that holds the secret to sign with; empty: unsigned.
    """

    url: str = Field(pattern=r"^https?://")
    moment: Literal["before", "after"] = "after"
    timeout_s: float = Field(default=5.0, gt=0.0)
    retry_s: float = Field(default=60.0, gt=0.0)
    secret_env: str = ""


class RolloutPolicy(Frozen):
    """Steps of a rollout, and what is asked of a challenger at each.

    Path. ``steps`` are shares of requests, rising to 1; at each the challenger stays ``bake_s`` seconds at least, also
    at the last before it is promoted. At the shares in ``gates`` it then waits for a person (`resume` or `promote`).
    During ``freezes`` nothing advances. With ``dry_run`` it stays at its first share: what would have been done is
    journaled, and only a person's orders are carried out.

    With ``shadow`` the challenger gets copies: the shares are of requests that it answers as well, callers get the champion's answers
    throughout, and a promotion is the first they hear of it. Copies are dropped under load, which ``rayloop_shadow_dropped`` counts.

    Asked. ``metric`` says what a prediction costs; ``margin`` is how much larger than the champion's the challenger's
    mean cost may be for it to advance, as a fraction of it. ``max_error_rate`` is how many of the requests that the
    champion could answer it may fail, ``error_margin`` by how much it may fail more often than the champion, as a
    fraction (None: not compared). Its replica may grow by ``max_growth_mib`` MiB of memory after it was loaded (None: by
    any); one that grows further is ended on the spot. Its ``latency_quantile`` in the predictor may be longer than the champion's by the
    fraction ``latency_margin`` and ``latency_floor_ms`` (None: not compared); to advance this must be shown only with
    ``latency_to_advance``.

    Certainty. ``alpha`` bounds the probability of a wrong abort, and of a wrong advance, over a whole rollout, however
    many challengers it has: they share it. The shares in ``steps`` are those of all challengers together.
    ``min_requests`` (of each variant) and ``min_labelled`` (rows) are counted anew at each step. After ``deadline_s``
    seconds at one step without a decision, ``on_undecided`` applies, or ``no_data`` where the minimum counts are not
    met.
    """

    # Journals and webhooks keep the name that min_labeled had in the first release.
    model_config = ConfigDict(serialize_by_alias=True)

    steps: tuple[float, ...] = (0.05, 0.25, 0.5, 1.0)
    bake_s: float = Field(default=0.0, ge=0.0)
    gates: tuple[float, ...] = ()
    freezes: tuple[FreezeWindow, ...] = ()
    dry_run: bool = False
    shadow: bool = False
    webhooks: tuple[Webhook, ...] = ()
    metric: Metric = "loss"
    min_requests: int = Field(default=50, ge=1)
    min_labeled: int = Field(
        default=50,
        ge=1,
        validation_alias=AliasChoices("min_labeled", "min_labelled"),
        serialization_alias="min_labelled",
    )
    margin: float = Field(default=0.05, ge=0.0)
    max_error_rate: float = Field(default=0.02, gt=0.0, lt=1.0)
    error_margin: float | None = Field(default=0.5, ge=0.0)
    max_growth_mib: float | None = Field(default=1024.0, gt=0.0)
    latency_quantile: float | None = Field(default=0.95, gt=0.0, lt=1.0)
    latency_margin: float = Field(default=0.5, ge=0.0)
    latency_floor_ms: float = Field(default=10.0, ge=0.0)
    latency_to_advance: bool = False
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    deadline_s: float = Field(default=3600.0, gt=0.0)
    on_undecided: DefaultAction = "abort"
    no_data: DefaultAction = "abort"
    poll_s: float = Field(default=1.0, gt=0.0)
    challenger_timeout_s: float = Field(default=1.0, gt=0.0)

    @model_validator(mode="after")
    def _steps_rise_to_one(self) -> Self:
        rising = all(a < b for a, b in zip(self.steps, self.steps[1:], strict=False))
        if not self.steps or not rising or self.steps[0] <= 0.0 or self.steps[-1] != 1.0:
            raise RolloutError(f"rollout steps {self.steps} do not rise to 1", "declare some like (0.05, 0.5, 1.0)")
        stray = [gate for gate in self.gates if not any(math.isclose(gate, step) for step in self.steps)]
        if stray:
            raise RolloutError(f"no step of the rollout is at the gates {stray}", f"the steps are {self.steps}")
        return self

    @model_validator(mode="after")
    def _latency_is_asked(self) -> Self:
        if self.latency_to_advance and self.latency_quantile is None:
            raise RolloutError("latency_to_advance without a latency_quantile", "name the quantile, such as 0.95")
        return self

    def divide_alpha(self, entrants: int) -> RolloutPolicy:
        """What is asked of each of several challengers: the same, by an equal part of alpha (Bonferroni)."""
        return self if entrants == 1 else self.model_copy(update={"alpha": self.alpha / entrants})

    @property
    def test_alpha(self) -> float:
        """What each test that may stop a challenger spends: an equal part, to those that are asked for."""
        compared = (self.error_margin is not None) + (self.latency_quantile is not None)
        # Loss, errors by their limit, and the split are always tested.
        return self.alpha / (3 + compared)

    @property
    def min_pairs(self) -> int:
        """Labelled rows before loss may abort: the confidence sequence is asymptotic."""
        return max(self.min_labeled, 50)

    @property
    def sharpest_n(self) -> int:
        """Labelled rows at which the confidence sequence is sharpest."""
        return 4 * self.min_pairs
