"""What a project expects of its monitor: when traffic counts as drifted, what else is analyzed, what happens. Pure."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AliasChoices, Field, model_validator

from cluster.errors import ProjectError
from cluster.values import AlarmKind, Frozen
from features.disparity import DisparityLimit
from monitoring.statistics.drift_reference import MonitoredColumn

DAY_S = 86_400.0
MONTH_S = 30 * DAY_S
LEAST_PER_WINDOW = 1_000
"""Rows of each window that are read, however many windows there are."""
WEIGHTS: dict[AlarmKind, float] = {
    "drift": 4.0, "quality": 2.0, "segment": 1.0, "multivariate": 1.0, "labels": 1.0, "estimate": 1.0, "fairness": 1.0,
}  # fmt: skip
"""How ``false_alarms`` is divided, unless ``weights`` says otherwise."""

Action = Literal["retrain", "rollback", "notify"]
"""retrain: a job retrains the champion's recipe. rollback: a job restores the previous champion."""


class NotificationTarget(Frozen):
    """A receiver of alarms."""

    url: str
    """Address of the webhook (body: monitoring/detection/notification_payloads.py), or of an Alertmanager."""
    kind: Literal["webhook", "alertmanager"] = "webhook"
    secret_env: str = ""
    """Environment variable, where the cluster is started, with the secret that signs webhooks; empty: unsigned."""
    timeout_s: float = Field(default=5.0, gt=0, le=60)
    """Seconds that one attempt may take."""


class LogAnalysisPolicy(Frozen):
    """What a Ray task looks for in the logged rows when windows have closed."""

    segments: tuple[str, ...] = ()
    """Category columns; each of their largest values is compared with its own past."""
    largest: int = Field(default=8, ge=1, le=100)
    """Values of each segment column that are compared."""
    rows: int = Field(default=50_000, ge=1_000)
    """Rows read at most, uniformly sampled."""
    sample: int = Field(default=3_000, ge=100)
    """Rows that train classifiers."""
    alpha: float = Field(default=0.01, gt=0, lt=1)
    """False findings per window, for each kind of finding; ``DriftPolicy.false_alarms`` replaces it."""
    auc: float = Field(default=0.6, ge=0.5, le=1)
    """Smallest AUC of the domain classifier worth an alarm."""
    margin: float = Field(default=0.2, ge=0)
    """Smallest increase of the loss worth an alarm, as a share of the held-out loss."""
    label_wait_s: float = Field(default=14 * DAY_S, gt=0)
    """Seconds of event time for which windows are analyzed again as labels arrive."""
    every_s: float = Field(default=30.0, ge=0)
    """Seconds between two analyses at least, by the clock."""
    to_label: int = Field(default=20, ge=0, le=10_000)
    """Requests per analysis that are queued for labeling."""
    actions: dict[AlarmKind, Action] = Field(default_factory=dict)
    """What each kind of alarm does; "notify" for the others."""
    disparity: tuple[DisparityLimit, ...] = ()
    """Rates that may not differ between groups; those of ``FairnessPolicy(live=True)`` are added on deployment."""

    def rows_per_window(self, windows: int) -> int:
        """Rows of each window in the sample when so many windows are analyzed."""
        return max(LEAST_PER_WINDOW, self.rows // max(windows, 1))


class DriftPolicy(Frozen):
    """When a model's traffic counts as drifted, and what happens then. Times are event time."""

    window_s: float = Field(default=DAY_S, gt=0)
    """Seconds in a window."""
    span: int = Field(default=3, ge=1)
    """Newest windows that are compared as one."""
    min_rows: int = Field(default=200, ge=1)
    """A window with fewer rows is skipped."""
    window_rows: int | None = Field(default=None, ge=1)
    """Windows by count: successive windows of ``window_s`` are merged until they contain this many rows. Each row is
    then in one run, and ``span`` has no effect."""
    alpha: float = Field(default=0.01, gt=0, lt=1)
    """False alarms per window, over all monitored columns."""
    false_alarms: float | None = Field(default=None, gt=0)
    """Expected false alarms in 30 days, of all kinds together; replaces every ``alpha``. ``weights`` divide it."""
    weights: dict[AlarmKind, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Shares of ``false_alarms`` in place of those in WEIGHTS. A kind of weight 0, other than drift, is off, and so is
    a kind that the policy does not look for; their shares go to the others."""
    test: Literal["distance", "all"] = "distance"
    """What is tested: the distance that ``effect`` is measured in, or all statistics of a column together."""
    effect: float = Field(default=0.1, ge=0, le=1)
    """Smallest distance worth an alarm, as a share of rows moved."""
    needed: int = Field(default=1, ge=1)
    """Drifted windows among the last ``of`` that an alarm requires."""
    of: int = Field(default=1, ge=1)
    release: int = Field(default=3, ge=1)
    """Quiet windows in a row before the next alarm."""
    watch: tuple[MonitoredColumn, ...] = ()
    """Columns that can raise an alarm; empty: every column, in both directions."""
    action: Action = "retrain"
    """What a drift alarm does."""
    cooldown_s: float = Field(default=3 * DAY_S, ge=0)
    """Seconds after an action in which no other one starts."""
    budget: int = Field(default=2, ge=0)
    """Retrains per ``budget_s``."""
    budget_s: float = Field(default=7 * DAY_S, gt=0)
    lateness_s: float = Field(default=0.0, ge=0)
    """A window closes when one that starts at least this many seconds after its end has ``min_rows`` rows."""
    log_analysis: LogAnalysisPolicy | None = Field(
        default=LogAnalysisPolicy(), validation_alias=AliasChoices("log_analysis", "look"), serialization_alias="look"
    )
    """What is analyzed in the logged rows; None: nothing."""
    notify: tuple[NotificationTarget, ...] = Field(
        default=(), validation_alias=AliasChoices("notify", "tell"), serialization_alias="tell"
    )
    """Receivers of every alarm."""

    @model_validator(mode="after")
    def _persistence_is_possible(self) -> Self:
        if self.needed > self.of:
            raise ProjectError("project.impossible_persistence", needed=self.needed, of=self.of)
        return self

    @model_validator(mode="after")
    def _drift_has_a_weight(self) -> Self:
        if not self._weight("drift"):
            raise ProjectError("project.drift_without_weight")
        return self

    @property
    def kinds(self) -> tuple[AlarmKind, ...]:
        """Kinds of alarm that this policy can raise."""
        analysis = self.log_analysis
        needs = {} if analysis is None else {"segment": analysis.segments, "fairness": analysis.disparity}
        declared = {"drift"} if analysis is None else {kind for kind in WEIGHTS if needs.get(kind, True)}
        return tuple(kind for kind in WEIGHTS if kind in declared and self._weight(kind))

    def level(self, kind: AlarmKind = "drift") -> float:
        """Probability of a false alarm of a kind that one window may add; 0 for a kind that is off.

        A closed window is looked at once for each kind: by the detector, or by the one log analysis that it makes due.
        Quality is looked at in several analyses, by bounds that hold at all of them together. Expectations add up,
        however looks depend on each other, and an episode of several findings is one alarm. So the levels of a month's
        windows sum to at most ``false_alarms``.
        """
        if kind not in self.kinds:
            return 0.0
        if self.false_alarms is not None:
            share = self._weight(kind) / sum(map(self._weight, self.kinds))
            return alpha_per_window(self.false_alarms * share, self.window_s)
        analysis = None if kind == "drift" else self.log_analysis
        return self.alpha if analysis is None else analysis.alpha

    def monthly(self, kind: AlarmKind) -> float:
        """False alarms of a kind that are expected in 30 days, at most."""
        return self.level(kind) * MONTH_S / self.window_s

    def _weight(self, kind: AlarmKind) -> float:
        return self.weights.get(kind, WEIGHTS[kind])

    def action_on(self, kind: AlarmKind) -> Action:
        """The action for an alarm: ``action`` for drift, else what the log analysis policy says."""
        if kind == "drift":
            return self.action
        return self.log_analysis.actions.get(kind, "notify") if self.log_analysis else "notify"


def alpha_per_window(false_alarms: float, window_s: float) -> float:
    """The level of a window at which ``false_alarms`` are expected in 30 days without drift; at most 0.5.

    Expectations add up no matter how much windows overlap, so overlapping runs need no correction: each of the month's
    windows may spend the same part.
    """
    return min(0.5, false_alarms * window_s / MONTH_S)
