"""The label delay is declared, or measured from the training frame; policies follow from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from cluster.values import Snapshot
from deployments.rollout_policy import RolloutPolicy
from features.builders import category, timestamp
from features.definitions import Entity
from features.sources.outcome_labels import label_within
from features.sources.source import Source
from features.types import AS_OF, LABEL_KNOWN_AT
from monitoring.drift_policy import DriftPolicy, LogAnalysisPolicy
from rayloop.label_delay import describe_path, drift_policy, find_label_delay, rollout_policy

DAY = timedelta(days=1)


class Frames:
    """A training frame with a row for each delay; none without delays."""

    def __init__(self, delays: Sequence[timedelta]) -> None:
        self._delays = delays

    def latest(self, name: str) -> Snapshot | None:
        return Snapshot(table=name, id=1, rows=len(self._delays)) if self._delays else None

    def stream(self, name: str, snapshot: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        start = datetime(2026, 1, 1, tzinfo=UTC)
        for delays in (self._delays[::2], self._delays[1::2]):
            times = {AS_OF: [start] * len(delays), LABEL_KNOWN_AT: [start + delay for delay in delays]}
            yield pa.table({name: pa.array(times[name], pa.timestamp("us", tz="UTC")) for name in columns})


def context(delays: Sequence[timedelta] = (), label: object = None, **project: Any) -> Any:
    declared = {"label_delay": None, "rollout": RolloutPolicy(), "drift": DriftPolicy()} | project
    examples = SimpleNamespace(label=label)
    return SimpleNamespace(
        project=SimpleNamespace(examples=examples, **declared), tables=Frames(delays), frame_table="p.frame"
    )


def test_delay_is_measured_from_the_training_frame() -> None:
    delay = find_label_delay(context([day * DAY for day in range(101)]))
    assert delay == (50 * DAY, 95 * DAY, "measured")
    assert str(delay) == "labels take 50 days (median), 95% of them at most 95 days (measured)"


def test_delay_is_what_the_label_of_later_rows_says() -> None:
    orders = Source(
        name="orders", key=("id",), columns=(*category("id", "customer"), *timestamp("at")), event_time="at",
        known_at="at", read=lambda: None,  # type: ignore[arg-type, return-value]
    )  # fmt: skip
    label = label_within(orders, Entity(name="customer", keys=("customer",)), 90 * DAY, settle=2 * DAY)
    assert find_label_delay(context([DAY], label)) == (92 * DAY, 92 * DAY, "declared")


def test_declared_delay_replaces_the_others_and_without_a_frame_it_is_unknown() -> None:
    assert find_label_delay(context([DAY], label_delay=60 * DAY)) == (60 * DAY, 60 * DAY, "declared")
    assert find_label_delay(context()) is None
    assert rollout_policy(context().project, None) == RolloutPolicy()


@pytest.mark.parametrize(
    ("analysis", "delay", "wait_days"),
    [
        (LogAnalysisPolicy(), 10 * DAY, 14),
        (LogAnalysisPolicy(), 59.5 * DAY, 74),
        (LogAnalysisPolicy(label_wait_s=DAY.total_seconds()), 60 * DAY, 1),
    ],
)
def test_windows_wait_as_long_as_labels_take(analysis: LogAnalysisPolicy, delay: timedelta, wait_days: int) -> None:
    slow = context(label_delay=delay, drift=DriftPolicy(log_analysis=analysis))
    policy = drift_policy(slow, find_label_delay(slow))
    assert policy.log_analysis is not None
    assert policy.log_analysis.label_wait_s == wait_days * DAY.total_seconds()


def test_path_is_described_with_its_reason() -> None:
    slow, fast = context(label_delay=60 * DAY), context(label_delay=timedelta(hours=2))
    descriptions = [
        describe_path(rollout_policy(c.project, find_label_delay(c)), find_label_delay(c)) for c in (slow, fast)
    ]
    assert descriptions == [
        "health, then labels after the promotion (labels take 60 days (declared): longer than a rollout)",
        "labels (labels take 2 hours (declared))",
    ]
