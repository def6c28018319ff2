"""Settings of a rollout: steps, guards, webhooks, and the evidence that decides. Pure."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import AliasChoices, ConfigDict, Field, model_validator

from cluster.errors import RolloutError
from cluster.row_losses import Metric
from cluster.values import Frozen
from deployments.freeze_windows import FreezeWindow
from features.disparity import DisparityLimit

DefaultAction = Literal["hold", "abort", "advance"]
EvidenceCheck = Literal["split", "variant", "scores", "requests", "duplicates", "coverage", "delay", "labels", "loss"]
"""Checks of the evidence itself (deployments/analysis/validity/validity_checks.py)."""
Path = Literal["labels", "health"]
LateHarm = Literal["rollback", "alarm"]

DAY_S = 86_400.0

Test = Literal["quality", "early_quality", "error_rate", "error_ratio", "latency", "split", "disparity"]
"""Tests that may stop a challenger (deployments/analysis/criteria.py, quality_test.py, disparity_test.py)."""

_WEIGHTS: dict[Test, float] = {
    "quality": 5.0,
    "early_quality": 1.0,
    "error_rate": 1.0,
    "error_ratio": 1.0,
    "latency": 1.0,
    "split": 1.0,
    "disparity": 1.0,
}
"""Relative parts of alpha. Rows to a verdict grow with the log of 1 / alpha times the rows that one nat of evidence
takes; the sum over the tests is least where each part is proportional to those rows (docs/decisions/0067)."""


class Webhook(Frozen):
    """An address that receives each step as JSON, by POST (deployments/rollout/webhook_client.py)."""

    url: str = Field(pattern=r"^https?://")
    moment: Literal["before", "after"] = "after"
    """"before" a step, the webhook approves it: an answer other than 2xx, or a late one, holds the step. "after" it,
    the webhook is only notified."""
    timeout_s: float = Field(default=5.0, gt=0.0)
    """Seconds within which it must answer."""
    retry_s: float = Field(default=60.0, gt=0.0)
    """Seconds from a refusal to the next request for approval."""
    secret_env: str = ""
    """Environment variable, of the cluster's processes, with the secret to sign with; empty: unsigned."""


class RolloutPolicy(Frozen):
    """Steps of a rollout, and what a challenger must show at each.

    At each step the challengers together answer a share of the requests. Evidence is tested continuously, with a total
    error probability of ``alpha`` (deployments/analysis/verdict.py).
    """

    # Journals and webhooks keep the name that min_labeled had in the first release.
    model_config = ConfigDict(serialize_by_alias=True)

    steps: tuple[float, ...] = (0.05, 0.25, 0.5, 1.0)
    """Shares of requests, rising to 1: those of all challengers together."""
    bake_s: float = Field(default=0.0, ge=0.0)
    """Seconds that a challenger stays at each step at least, also at the last one before its promotion."""
    gates: tuple[float, ...] = ()
    """Shares at which the rollout waits for a person to `resume` or `promote`."""
    freezes: tuple[FreezeWindow, ...] = ()
    """Weekly windows during which the rollout does not advance."""
    dry_run: bool = False
    """Stay at the first share and journal what would have been done; only a person's commands are carried out."""
    shadow: bool = False
    """Challengers score copies of requests while the champion answers all of them, until a promotion. Copies are
    dropped under load, which the metric ``rayloop_shadow_dropped`` counts."""
    copies: float = Field(default=1.0, ge=0.0, le=1.0)
    """Fraction of the routing keys, of those that the champion answers, whose requests a challenger also scores after
    the answer, as evidence; all by default. None in shadow mode, where ``steps`` are the shares that are copied."""
    copy_cpus: float = Field(default=0.05, gt=0.0)
    """CPUs that copies may occupy, for each replica of the champion, of the time in which it has nothing else to do; a
    twentieth by default. Copies beyond it are dropped, which the metric ``rayloop_shadow_dropped`` counts."""
    webhooks: tuple[Webhook, ...] = ()
    """Addresses that approve steps or are notified of them."""
    metric: Metric = "loss"
    """Cost of a prediction by which the variants are compared."""
    min_requests: int = Field(default=50, ge=1)
    """Requests that each variant needs at each step before an advance."""
    min_labeled: int = Field(
        default=50,
        ge=1,
        validation_alias=AliasChoices("min_labeled", "min_labelled"),
        serialization_alias="min_labelled",
    )
    """Labeled rows, scored by both variants, that each step needs before an advance."""
    margin: float = Field(default=0.05, ge=0.0)
    """To advance, the challenger's mean cost may exceed the champion's by at most this fraction of it."""
    max_error_rate: float = Field(default=0.02, gt=0.0, lt=1.0)
    """Fraction of requests that a challenger may fail, of those that the champion could answer."""
    error_margin: float | None = Field(default=0.5, ge=0.0)
    """Fraction by which a challenger may fail more often than the champion; None: error rates are not compared."""
    max_growth_mib: float | None = Field(default=1024.0, gt=0.0)
    """MiB by which a challenger's replica may grow after loading; beyond it the replica terminates. None: no limit."""
    latency_quantile: float | None = Field(default=0.95, gt=0.0, lt=1.0)
    """Quantile of the latency in the predictor that is compared; None: latencies are not compared."""
    latency_margin: float = Field(default=0.5, ge=0.0)
    """Fraction by which the challenger's quantile may exceed the champion's, in addition to ``latency_floor_ms``."""
    latency_floor_ms: float = Field(default=10.0, ge=0.0)
    """Milliseconds by which the challenger's quantile may exceed the champion's, in addition to ``latency_margin``."""
    latency_to_advance: bool = False
    """Whether an advance requires evidence that latency is within its bounds; otherwise it only may not exceed them."""
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Bound on the probability of a wrong abort, and of a wrong advance, over a whole rollout; challengers share it."""
    alpha_parts: Literal["weighted", "equal"] = "weighted"
    """Parts of ``alpha`` that the tests spend to abort: most of it for quality, or equal ones, as in a rollout that
    began under release 0.2."""
    validity_alpha: float = Field(default=0.01, gt=0.0, lt=0.5)
    """Bound on the probability that sound evidence is ever called invalid; challengers share it."""
    unchecked: tuple[EvidenceCheck, ...] = ()
    """Checks of the evidence that are left out, such as "labels" where an answer changes what happens."""
    deadline_s: float = Field(default=3600.0, gt=0.0)
    """Seconds at one step without a decision after which ``on_undecided`` or ``no_data`` applies."""
    on_undecided: DefaultAction = "abort"
    """Action at the deadline when the minimum counts are reached."""
    no_data: DefaultAction = "abort"
    """Action at the deadline when the minimum counts are not reached."""
    poll_s: float = Field(default=1.0, gt=0.0)
    """Seconds between two passes of the controller."""
    challenger_timeout_s: float = Field(default=1.0, gt=0.0)
    """Seconds within which a challenger must answer a request; after that the champion answers it."""
    disparity: tuple[DisparityLimit, ...] = ()
    """By how much a rate may differ more between groups for the challenger than for the champion; those of
    ``FairnessPolicy(live=True)`` are added when a rollout starts."""
    label_delay_s: float | None = Field(default=None, ge=0.0)
    """Seconds within which 95% of the labels are known; None: within a step. A project's own delay replaces None, and
    settings that are not given follow from it (deployments/label_delay.py)."""
    label_wait_s: float = Field(default=30 * DAY_S, gt=0.0)
    """Seconds that a row which both variants scored waits for its label."""
    path: Path = "labels"
    """What a challenger must show to advance: that its labeled rows are within the margin, or, where labels take longer
    than a rollout, that it is healthy (deployments/analysis/health.py)."""
    max_disagreement: float = Field(default=0.1, gt=0.0, le=1.0)
    """On the path of health: how far the scores of both variants for the same row may differ. Classification: the
    distance of their probabilities (total variation), on average. Regression: the mean squared difference, as a
    fraction of the variance of the champion's scores."""
    max_estimated_excess: float | None = Field(default=0.25, ge=0.0)
    """On the path of health: fraction by which the challenger's cost may exceed the champion's if labels follow the
    champion's probabilities; None: not estimated. A regression has no such estimate."""
    probation_share: float = Field(default=0.1, gt=0.0, le=1.0)
    """After a promotion on health: share of requests of which the former champion scores copies."""
    probation_s: float | None = Field(default=None, gt=0.0)
    """Seconds from a promotion on health until the comparison ends without a verdict; None: twice ``label_delay_s``, or
    30 days more than it if that is longer."""
    on_late_harm: LateHarm = "rollback"
    """Action when labels show after a promotion on health that the promoted version is worse."""

    @model_validator(mode="after")
    def _steps_rise_to_one(self) -> Self:
        rising = all(a < b for a, b in zip(self.steps, self.steps[1:], strict=False))
        if not self.steps or not rising or self.steps[0] <= 0.0 or self.steps[-1] != 1.0:
            raise RolloutError("rollout.steps_not_rising_to_one", steps=self.steps)
        unknown = tuple(gate for gate in self.gates if not any(math.isclose(gate, step) for step in self.steps))
        if unknown:
            raise RolloutError("rollout.gate_without_step", gates=unknown, steps=self.steps)
        return self

    @model_validator(mode="after")
    def _latency_has_quantile(self) -> Self:
        if self.latency_to_advance and self.latency_quantile is None:
            raise RolloutError("rollout.latency_quantile_missing")
        return self

    def divide_alpha(self, initial_challengers: int) -> RolloutPolicy:
        """The policy for each of several challengers: an equal part of each error rate (Bonferroni).

        On the path of health the checks of evidence run twice, on rows of the canary and on those from after the
        promotion: each time they spend half of ``validity_alpha``.

        Args:
            initial_challengers: Challengers that the rollout started with.
        """
        runs = 2 if self.path == "health" else 1
        if initial_challengers == runs == 1:
            return self
        rates = {"alpha": self.alpha, "validity_alpha": self.validity_alpha / runs}
        return self.model_copy(update={name: rate / initial_challengers for name, rate in rates.items()})

    def test_alpha(self, test: Test) -> float:
        """Error probability of a test that may abort: its part of alpha, of which tests that are off spend nothing."""
        weights = self._weights
        return self.alpha * weights.get(test, 0.0) / sum(weights.values())

    @property
    def probation_limit_s(self) -> float:
        """Seconds from a promotion on health until the comparison ends without a verdict."""
        delay = self.label_delay_s or 0.0
        return self.probation_s if self.probation_s is not None else delay + max(delay, 30 * DAY_S)

    @property
    def probation_poll_s(self) -> float:
        """Seconds between two looks at labels that come for weeks."""
        return max(self.poll_s, min(60.0, (self.label_delay_s or 0.0) / 100.0))

    @property
    def min_pairs(self) -> int:
        """Labeled rows before the loss may abort: the confidence sequence is asymptotic."""
        return max(self.min_labeled, 50)

    @property
    def sharpest_n(self) -> int:
        """Labeled rows at which the confidence sequence is sharpest."""
        return (10 if self.alpha_parts == "weighted" else 4) * self.min_pairs

    @property
    def _weights(self) -> dict[Test, float]:
        """Weights of the tests in use; quality and the error rate's limit are always tested.

        The split is a check of the evidence, with an error rate of its own: its part is not spent, but for disparity.
        """
        off = {
            "early_quality": self.metric != "loss" or self.alpha_parts == "equal",
            "error_ratio": self.error_margin is None,
            "latency": self.latency_quantile is None,
            "split": bool(self.disparity),
            "disparity": not self.disparity,
        }
        equal = self.alpha_parts == "equal"
        return {test: 1.0 if equal else weight for test, weight in _WEIGHTS.items() if not off.get(test)}
