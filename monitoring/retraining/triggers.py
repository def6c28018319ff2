"""What a project declares about retraining: its triggers, and the budget of all of them together. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import datetime
from itertools import islice, takewhile
from typing import Literal, NamedTuple, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import Field, model_validator

from cluster.errors import ProjectError
from cluster.values import Frozen

MOST_COUNTED = 1_000
"""Runs of a schedule that are counted one by one."""
_FIELDS = 5


class Occurrences(NamedTuple):
    """Runs of a schedule in a span of time."""

    total: int
    """How many, at most MOST_COUNTED."""
    newest: datetime | None
    """The newest one, in the schedule's zone; None without any."""


class Cron(Frozen):
    """A schedule by local time. Debian's cron says what a change of the clocks means.

    A run whose local time does not exist starts when the clocks have gone forward, and one whose local time comes twice
    starts the first time. An expression whose minute or hour begins with * follows the elapsed time.

    Raises:
        ProjectError: The expression or the zone is not valid, or the expression never comes.
    """

    kind: Literal["cron"] = "cron"
    expression: str
    """Minute, hour, day of the month, month, day of the week, as in crontab(5): "0 3 * * 1" is Mondays at three."""
    timezone: str = "UTC"
    """Time zone as in the IANA database, such as "Europe/Berlin"."""
    missed: Literal["catch_up", "skip"] = "catch_up"
    """Runs that could not start in time, because the cluster was down or a retraining or rollout was in progress:
    one run catches up with all of them, or they are skipped."""
    tolerance_s: float = Field(default=900.0, gt=0)
    """Seconds after its time in which a run is not missed."""

    @model_validator(mode="after")
    def _is_valid(self) -> Self:
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ProjectError("project.unknown_time_zone", zone=self.timezone) from error
        if len(self.expression.split()) != _FIELDS:
            raise ProjectError("project.invalid_cron", expression=self.expression, reason="it needs five fields")
        try:
            comes = self.next_run(0.0) is not None
        except CronSimError as error:
            raise ProjectError("project.invalid_cron", expression=self.expression, reason=str(error)) from error
        if not comes:
            raise ProjectError("project.invalid_cron", expression=self.expression, reason="it never comes")
        return self

    def next_run(self, now: float) -> datetime | None:
        """The first run after a time, in the schedule's zone; None if there is none within 50 years."""
        return next(self._runs_after(now), None)

    def occurrences(self, since: float, until: float) -> Occurrences:
        """The runs in (since, until], seconds since the epoch."""
        newest, count = None, 0
        for run in islice(self._runs_after(since), MOST_COUNTED):
            if run.timestamp() > until:
                return Occurrences(count, newest)
            newest, count = run, count + 1
        return Occurrences(count, self._newest_by(until) if count else None)

    def _runs_after(self, since: float) -> Iterator[datetime]:
        """Runs after a time, each later than the one before it."""
        last = since
        for run in CronSim(self.expression, datetime.fromtimestamp(since, ZoneInfo(self.timezone))):
            # In the hour that comes twice, the library starts with the first of the two; and after a gap, two local
            # times may be the same moment.
            if run.timestamp() > last:
                last = run.timestamp()
                yield run

    def _newest_by(self, until: float) -> datetime:
        """The newest run at a time or before it."""
        for days in (1, 8, 64, 512, 50 * 366):
            runs = takewhile(lambda run: run.timestamp() <= until, self._runs_after(until - days * 86_400.0))
            if newest := deque(runs, maxlen=1):
                return newest[0]
        raise AssertionError("a schedule that came more than MOST_COUNTED times has come")

    def __str__(self) -> str:
        return f"schedule {self.expression} {self.timezone}"


class OnRows(Frozen):
    """Retrain when a source has this many rows more than at the last retraining.

    Rows land when a command ingests them: ``run``, ``train``, ``deploy``, ``retrain``, ``backfill``.
    """

    kind: Literal["rows"] = "rows"
    rows: int = Field(ge=1)
    """New rows."""
    source: str = ""
    """Name of the source; empty: that of the examples."""

    @property
    def needed(self) -> int:
        """How many are needed."""
        return self.rows

    def __str__(self) -> str:
        return f"{self.rows} new rows" + (f" of {self.source}" if self.source else "")


class OnLabels(Frozen):
    """Retrain when the model's label log has this many labels more than at the last retraining."""

    kind: Literal["labels"] = "labels"
    labels: int = Field(ge=1)
    """New labels."""

    @property
    def needed(self) -> int:
        """How many are needed."""
        return self.labels

    def __str__(self) -> str:
        return f"{self.labels} new labels"


Trigger = Cron | OnRows | OnLabels


class RetrainPolicy(Frozen):
    """When a model is retrained, apart from alarms, and the budget of all retraining that is not started by hand."""

    on: tuple[Trigger, ...] = ()
    """Triggers, each declared once."""
    max_runs: int | None = Field(default=None, ge=0)
    """Retrains per ``period_s``, alarms included; None: no limit but that of the drift policy."""
    max_minutes: float | None = Field(default=None, ge=0)
    """Minutes of retraining jobs per ``period_s`` after which no other one starts; None: no limit."""
    period_s: float = Field(default=7 * 86_400.0, gt=0)
    """Seconds, by the clock."""
    check_s: float = Field(default=30.0, gt=0)
    """Seconds between two looks at rows, labels and jobs at least."""

    @model_validator(mode="after")
    def _declares_each_once(self) -> Self:
        names = [str(trigger) for trigger in self.on]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ProjectError("project.trigger_repeated", triggers=repeated)
        return self
