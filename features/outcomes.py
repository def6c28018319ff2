"""Labels that depend on later rows: whether, or how much, something happens to an entity in a time after a row."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import polars as pl

from features.definitions import OutcomeView

OutcomeKind = Literal["any", "count", "sum"]


@dataclass(frozen=True)
class LabelWithin:
    """The label of a row at t: the events of its entity in (t, t + within].

    Positive or negative, it is known at t + within + settle. A positive one could be known as soon as its event is; but
    then a training frame would have, of the newest rows, only the positive ones, and a model would learn that newer
    rows are more often positive.
    """

    view: OutcomeView
    """The events, with the label as its one feature."""
    kind: OutcomeKind
    """``any``: 1 if there is an event, else 0; ``count``: their number; ``sum``: the sum of a value of theirs."""

    @property
    def within(self) -> timedelta:
        """How long after a row an event counts."""
        return self.view.aggregates[0].window

    @property
    def delay(self) -> timedelta:
        """How long after a row its label is known."""
        return self.within + self.view.settle

    @property
    def known_at(self) -> str:
        """Column of the source with the time at which an event became known."""
        return self.view.known_at or self.view.event_time

    @property
    def entity_keys(self) -> tuple[str, ...]:
        """Columns by which a row finds its events."""
        return self.view.entity.keys


def event_keys(label: LabelWithin) -> list[pl.Expr]:
    """Return expressions for the columns by which rows of the examples' source find their events."""
    return [pl.col(key).alias(key_column(key)) for key in label.entity_keys]


def key_column(key: str) -> str:
    """Return the name that a column of ``event_keys`` has."""
    return f"__label {key}"
