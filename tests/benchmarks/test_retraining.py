"""Replays of streams: an alarm retrains when the world changes, and does not when nothing does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from benchmarks.models.retraining import StreamReplays, compare
from benchmarks.models.streams import Stream
from features.types import AS_OF, INSTANT, LABEL, LABEL_KNOWN_AT

DAYS, ROWS = 120, 250


def _stream(changed_from: int) -> Stream:
    """A label that depends on x; from a day on, x and what it means change."""
    rng = np.random.default_rng(0)
    day = np.repeat(np.arange(DAYS), ROWS)
    changed = day >= changed_from
    x = rng.normal(size=len(day)) + 2.0 * changed
    chance = 1 / (1 + np.exp(-3 * np.where(changed, 2.0 - x, x)))
    start = datetime(2026, 1, 1, tzinfo=UTC)
    at = [start + timedelta(days=int(d), seconds=60 * (i % ROWS)) for i, d in enumerate(day)]
    rows = pl.DataFrame({AS_OF: at, LABEL: (rng.random(len(day)) < chance).astype(float), "x": x})
    rows = rows.with_columns(pl.col(AS_OF).cast(INSTANT)).with_columns(
        (pl.col(AS_OF) + timedelta(days=1)).alias(LABEL_KNOWN_AT)
    )
    return Stream("generated", rows, 86_400.0, timedelta(days=5))


def test_an_alarm_retrains_after_a_change_and_pays() -> None:
    replays = StreamReplays(_stream(changed_from=60))
    by_alarm, never = replays.replay(), replays.replay(frozenset())
    assert by_alarm.retrained
    assert min(by_alarm.retrained) >= 60 - DAYS // 4 - 1
    assert by_alarm.promoted
    result = compare(replays.stream, by_alarm, "never", never)
    assert result.met
    assert result.ratio is not None
    assert result.ratio < 0.8


def test_a_calendar_that_retrains_after_a_change_beats_never() -> None:
    replays = StreamReplays(_stream(changed_from=60))
    never, once = replays.replay(frozenset()), replays.replay(frozenset({50, 60}))
    assert not compare(replays.stream, never, "by the calendar", once).met


def test_nothing_is_retrained_while_nothing_changes() -> None:
    replays = StreamReplays(_stream(changed_from=DAYS))
    assert len(replays.replay().retrained) <= 2
