"""What a project asks of its monitor: when traffic counts as drifted, what else is looked at, what is done. Pure."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cluster.errors import ProjectError
from cluster.values import AlarmKind, Frozen
from monitoring.statistics.calibration import Watch
from monitoring.statistics.column_tests import alpha_per_window

DAY_S = 86_400.0

Action = Literal["retrain", "rollback", "notify"]
"""retrain: a job trains the champion's recipe anew. rollback: a job has the champion before this one answer again."""


class Receiver(Frozen):
    """Who is told of alarms: a ``webhook`` (monitoring/detection/notification_payloads.py has the body), or an Alertmanager's address.

    ``secret_env`` names the environment variable, where the cluster is started, with the secret that webhooks are
    signed under.
    """

    url: str
    kind: Literal["webhook", "alertmanager"] = "webhook"
    secret_env: str = ""
    timeout_s: float = Field(default=5.0, gt=0, le=60)


class LookPolicy(Frozen):
    """What is looked at in the logged rows themselves, by a Ray task, when windows have closed.

    ``segments`` are columns (categories) whose ``largest`` values are each compared with their own past. ``rows`` are
    read at most, uniformly sampled, of which ``sample`` go into classifiers. ``alpha`` is the error asked for of each
    sort of finding and window. A domain classifier calls out from an AUC of ``auc`` on, performance when the loss is
    beyond the held-out one by the part ``margin``. Windows are looked at again as labels come, for ``label_wait_s`` of
    event time. Looks are ``every_s`` apart at least, by the clock. ``to_label`` requests a look are queued for
    labelling.
    """

    segments: tuple[str, ...] = ()
    largest: int = Field(default=8, ge=1, le=100)
    rows: int = Field(default=50_000, ge=1_000)
    sample: int = Field(default=3_000, ge=100)
    alpha: float = Field(default=0.01, gt=0, lt=1)
    auc: float = Field(default=0.6, ge=0.5, le=1)
    margin: float = Field(default=0.2, ge=0)
    label_wait_s: float = Field(default=14 * DAY_S, gt=0)
    every_s: float = Field(default=30.0, ge=0)
    to_label: int = Field(default=20, ge=0, le=10_000)
    actions: dict[AlarmKind, Action] = Field(default_factory=dict)


class DriftPolicy(Frozen):
    """When a model's traffic counts as drifted, and what is done about it. Times are event time, in seconds.

    The newest ``span`` windows of ``window_s`` are compared as one; a window of fewer than ``min_rows`` rows is
    passed over. With ``window_rows`` windows are by count instead: successive ones of ``window_s`` are taken together until
    they hold so many rows, each row is in one run, and ``span`` has no say. ``alpha`` is the rate of false alarms per window asked for over the watched columns, or
    ``false_alarms`` their expected number in 30 days, which is spent evenly over the windows; ``effect``
    the least distance (share of rows moved) worth an alarm. ``test`` is what p-values are of: the "distance" that the
    effect is measured in, or "all" statistics of a column together (monitoring/statistics/column_tests.py).
    An alarm needs ``needed`` drifted windows among the last ``of``. ``watch`` empty means every column, both ways.
    An action waits for ``cooldown_s`` after the last, a retrain for the ``budget`` per ``budget_s`` as well.
    A window closes when one that starts ``lateness_s`` or more after its end holds ``min_rows`` rows.
    ``look`` is None where logged rows are not to be looked at. ``tell`` are told of every alarm.
    """

    window_s: float = Field(default=DAY_S, gt=0)
    span: int = Field(default=3, ge=1)
    min_rows: int = Field(default=200, ge=1)
    window_rows: int | None = Field(default=None, ge=1)
    alpha: float = Field(default=0.01, gt=0, lt=1)
    false_alarms: float | None = Field(default=None, gt=0)
    test: Literal["distance", "all"] = "distance"
    effect: float = Field(default=0.1, ge=0, le=1)
    needed: int = Field(default=1, ge=1)
    of: int = Field(default=1, ge=1)
    release: int = Field(default=3, ge=1)
    watch: tuple[Watch, ...] = ()
    action: Action = "retrain"
    cooldown_s: float = Field(default=3 * DAY_S, ge=0)
    budget: int = Field(default=2, ge=0)
    budget_s: float = Field(default=7 * DAY_S, gt=0)
    lateness_s: float = Field(default=0.0, ge=0)
    look: LookPolicy | None = LookPolicy()
    tell: tuple[Receiver, ...] = ()

    @model_validator(mode="after")
    def _persistence_is_possible(self) -> Self:
        if self.needed > self.of:
            raise ProjectError(f"the drift policy needs {self.needed} drifted windows of {self.of}", "lower 'needed'")
        return self

    @property
    def level(self) -> float:
        """The rate of false alarms per window, whichever way it was asked for."""
        return self.alpha if self.false_alarms is None else alpha_per_window(self.false_alarms, self.window_s)

    def action_on(self, kind: AlarmKind) -> Action:
        """What an alarm asks for: of drift ``action``, of what a look finds what it says, else to be told."""
        if kind == "drift":
            return self.action
        return self.look.actions.get(kind, "notify") if self.look else "notify"
