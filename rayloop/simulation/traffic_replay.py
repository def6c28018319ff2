"""Replay history as live traffic: events go to the online store, requests to the endpoint, labels follow.

Time is that of the history and advances in steps. Each step pushes the events known by its end (a lookup filters by the
request's own time), then sends its requests, then the labels known by its end.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import polars as pl

from cluster.times import epoch_microseconds
from cluster.values import Task
from features.definitions import FeatureSet
from features.events.event_history import KNOWN_AT, build_history
from features.online.materialize import materialize_history
from features.online.store import OnlineStore
from features.types import AS_OF, ID, LABEL, LABEL_KNOWN_AT
from rayloop.simulation.load_client import NO_REQUESTS, LoadClient, LoadStats


class TrafficReplay:
    """One history, replayed forwards. Its ``rows`` have id, as_of, label, label_known_at and the request columns."""

    def __init__(
        self,
        task: Task,
        features: FeatureSet,
        rows: pl.DataFrame,
        events: dict[str, pl.DataFrame],
        store: OnlineStore,
        client: LoadClient,
        step: timedelta,
    ) -> None:
        self._task = task
        self._features = features
        self._rows = rows.sort(AS_OF)
        self._events = {
            v.name: build_history(v, events[v.source]).sort(KNOWN_AT, maintain_order=True) for v in features.views
        }
        self._store = store
        self._client = client
        self._step = step
        self._unlabeled = self._rows.clear()
        self.now: datetime | None = None
        self.answered = 0
        """Prediction requests that were answered so far; failed ones may never reach the log."""

    def run(
        self, start: datetime, end: datetime, enough: Callable[[], bool], tick: Callable[[datetime, LoadStats], None]
    ) -> LoadStats:
        """Replay [start, end), or less when ``enough`` returns True.

        Args:
            start: Begin of the period.
            end: End of the period.
            enough: Called after each step.
            tick: Called after each step with the time and the totals so far.
        """
        total, at = NO_REQUESTS, start
        while at < end:
            upto = min(at + self._step, end)
            self.push(upto)
            total += self._requests(at, upto)
            total += self._labels(upto)
            self.now = at = upto
            tick(at, total)
            if enough():
                break
        return total

    def push(self, until: datetime) -> None:
        """Bring the online store up to date with what was known at ``until``."""
        until_us = epoch_microseconds(until)
        for view in self._features.views:
            events = self._events[view.name]
            upto = int(events.get_column(KNOWN_AT).search_sorted(until_us, side="right"))
            materialize_history(self._store, view, events.head(upto), until_us)
            self._events[view.name] = events.slice(upto)

    def _requests(self, start: datetime, end: datetime) -> LoadStats:
        rows = self._rows.filter((pl.col(AS_OF) >= start) & (pl.col(AS_OF) < end))
        self._unlabeled = pl.concat([self._unlabeled, rows.drop_nulls([LABEL, LABEL_KNOWN_AT])])
        tally = self._client.predict(self._features, rows.get_column(ID).to_list(), rows)
        self.answered += tally.requests - tally.failed
        return tally

    def _labels(self, until: datetime) -> LoadStats:
        known = pl.col(LABEL_KNOWN_AT) <= until
        due = self._unlabeled.filter(known)
        self._unlabeled = self._unlabeled.filter(~known)
        times = due.get_column(LABEL_KNOWN_AT).dt.epoch("us").to_list()
        labels = [_label_value(self._task, label) for label in due.get_column(LABEL).to_list()]
        return self._client.label(due.get_column(ID).to_list(), labels, times)


def _label_value(task: Task, label: float) -> int | str | float:
    """A label as clients send it: 0 or 1, the name of a class, a number."""
    if task.kind == "multiclass":
        return task.classes[int(label)]
    return int(label) if task.kind == "binary" else label
