"""Declares labels that depend on later rows."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

import polars as pl

from cluster.errors import ProjectError
from features.builders import derive
from features.definitions import Aggregate, Entity, OutcomeView
from features.outcomes import LabelWithin, OutcomeKind
from features.sources.source import Source

_EVENT = "__event"


def label_within(
    source: Source,
    entity: Entity,
    within: timedelta,
    *,
    event: pl.Expr | None = None,
    kind: OutcomeKind = "any",
    value: pl.Expr | None = None,
    settle: timedelta = timedelta(0),
) -> LabelWithin:
    """Declare a label that depends on later rows: "bought again within 90 days".

    Args:
        source: The events. The examples may be rows of the same source: a row is not its own event.
        entity: What events and examples share; the examples' source has its key columns, too.
        within: How long after an example an event counts.
        event: Which rows of the source count, a Polars expression over columns of one row; default: all.
        kind: ``any``: 1 if an event follows, else 0; ``count``: how many; ``sum``: the sum of ``value``.
        value: What to add up, a Polars expression over columns of one row.
        settle: How long to wait for events that become known late; it delays the label.

    Raises:
        ProjectError: ``value`` and ``kind`` do not fit, or a time is negative.
    """
    if (kind == "sum") != (value is not None) or settle < timedelta(0):
        raise ProjectError("project.label_within", source=source.name, kind=kind, settle=settle)
    amount = pl.lit(1.0) if value is None else value
    is_event = event if event is not None else pl.col(source.event_time).is_not_null()
    op: Literal["count", "sum"] = "sum" if kind == "sum" else "count"
    view = OutcomeView(
        name=f"label of {source.name}", entity=entity, source=source.name, event_time=source.event_time,
        known_at=source.known_at, derived=(derive(_EVENT, pl.when(is_event).then(amount)),), settle=settle,
        aggregates=(Aggregate(column=_EVENT, op=op, window=within, name="label"),),
    )  # fmt: skip
    return LabelWithin(view, kind)
