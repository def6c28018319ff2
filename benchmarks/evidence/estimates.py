"""Intervals of performance without labels, on generated streams: how often they cover what the labels show.

A stream's rows have three numbers that decide the label; the model knows two of them, one by a wrong weight, so that it
is imperfect and what a score means depends on the third. Days vary: their inputs, and by a little the labels given the
inputs. The reference is 30 held-out days. Then a day of each kind:

    none        like the reference
    covariate   the numbers move: the mix of rows changes, labels given inputs do not
    prior       rows are drawn by their label: more positives; inputs given the label do not change. For regression,
                rows with large labels become more frequent
    concept     labels given inputs change, and inputs do not
    outside     the numbers move beyond the reference
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from benchmarks.results import Row, Target, row
from cluster.values import Task
from features.definitions import Column
from monitoring.analysis.window_estimate import estimate_interval
from monitoring.drift_policy import DAY_S, DriftPolicy, LogAnalysisPolicy
from monitoring.performance.estimate_intervals import IntervalEstimator
from monitoring.performance.estimator import PerformanceEstimator, loss_name, observed_metrics
from monitoring.samples.logged_rows import LoggedRows

Kind = Literal["none", "covariate", "prior", "concept", "outside"]
COLUMNS = tuple(Column(name=name, kind="number") for name in ("a", "b", "c"))
TASKS = (Task(kind="binary", label="late"), Task(kind="regression", label="delay"))
POLICY, SAMPLE = DriftPolicy(), LogAnalysisPolicy().sample
REFERENCE_DAYS, REFERENCE_ROWS = 30, 300
ROWS = 500
LABEL_DAYS = 3
STREAMS = {"binary": 12, "regression": 3}
"""Streams of each kind; learning from held-out days takes a regression seconds."""
COVERED = Target(of="value", sign="≥", limit=0.95)
STRENGTHS: dict[Kind, tuple[float, ...]] = {
    "none": (0.0,), "covariate": (0.5, 1.0), "prior": (0.1, 0.25), "concept": (0.25, 0.5, 1.0), "outside": (4.0,),
}  # fmt: skip
"""Standard deviations by which the numbers move; growth of the share of positives; change of the log odds, or of the
label in a regression."""
_DAY_SD, _LABEL_SD = 0.1, 0.1


@dataclass(frozen=True)
class Outcome:
    """What an estimate said of a day, and what its labels showed."""

    covered: bool
    code: str
    width: float


def day(
    rng: np.random.Generator, task: Task, index: int, rows: int, kind: Kind = "none", size: float = 0.0
) -> LoggedRows:
    """Rows of a day, all of them labeled."""
    many = 4 * rows if kind == "prior" else rows
    move = size if kind in ("covariate", "outside") else 0.0
    inputs = rng.normal(size=(many, 3)) + _DAY_SD * rng.normal(size=3) + move * np.array([1.0, 0.0, 0.7])
    signal = inputs @ np.array([1.2, 0.5, 0.6]) - 0.5 + 0.4 * inputs[:, 0] * inputs[:, 2]
    signal = signal + _LABEL_SD * rng.normal() + (size if kind == "concept" else 0.0)
    known = inputs @ np.array([1.2, 0.8, 0.0]) - 0.5
    if task.kind == "binary":
        scores = 1.0 / (1.0 + np.exp(-known))
        labels = (rng.random(many) < 1.0 / (1.0 + np.exp(-signal))).astype(float)
        high = labels == 1.0
    else:
        scores, labels = known, signal + (0.5 + 0.3 * np.abs(inputs[:, 0])) * rng.normal(size=many)
        high = labels > 1.0
    chosen = np.arange(rows)
    if kind == "prior":
        share = min(0.9, float(high.mean()) + size)
        odds = np.where(high, share / high.sum(), (1.0 - share) / (~high).sum())
        chosen = rng.choice(many, rows, replace=False, p=odds)
    frame = pa.table({c.name: inputs[chosen, i] for i, c in enumerate(COLUMNS)})
    times = index * DAY_S + rng.uniform(0, DAY_S - 1, rows)
    ids = np.array([f"{index}-{i}" for i in range(rows)], object)
    return LoggedRows(frame, ids, times, scores[chosen], labels[chosen])


def joined(parts: list[LoggedRows]) -> LoggedRows:
    """Rows of several days."""
    return LoggedRows(
        pa.concat_tables([p.frame for p in parts]),
        *(np.concatenate([getattr(p, name) for p in parts]) for name in ("ids", "times", "scores", "labels")),
    )


def unlabeled(rows: LoggedRows) -> LoggedRows:
    """The rows before their labels arrive."""
    return LoggedRows(rows.frame, rows.ids, rows.times, rows.scores, np.full(len(rows), np.nan))


def reference(rng: np.random.Generator, task: Task) -> IntervalEstimator:
    """What is learned from held-out days."""
    held_out = joined([day(rng, task, index, REFERENCE_ROWS) for index in range(REFERENCE_DAYS)])
    return IntervalEstimator(PerformanceEstimator(task, held_out, COLUMNS), held_out, DAY_S, POLICY.min_rows)


def judge(intervals: IntervalEstimator, earlier: list[LoggedRows], newest: LoggedRows) -> Outcome:
    """Estimate a day without its labels, after earlier days with labels, and compare with its labels."""
    task, live = intervals.whole.task, unlabeled(newest)
    estimate = estimate_interval(intervals, [*earlier, live], intervals.whole.adapt(live, SAMPLE))
    if estimate.code:
        return Outcome(False, estimate.code, math.nan)
    name = loss_name(task)
    interval, truth = estimate.intervals[name], observed_metrics(task, newest)[name]
    return Outcome(interval.low <= truth <= interval.high, "", (interval.high - interval.low) / 2 / interval.value)


def coverage(task: Task, kind: Kind, size: float, streams: int, days: int, label_days: int = 0) -> list[Outcome]:
    """Outcomes of days of streams.

    Args:
        task: Task of the model.
        kind: What changed.
        size: By how much.
        streams: Streams, each with a reference of its own.
        days: Days of each, all of them changed.
        label_days: Days that labels are late; 0: none come.
    """
    outcomes = []
    for seed in range(streams):
        rng = np.random.default_rng([seed, int(100 * size), len(kind)])
        intervals = reference(rng, task)
        live = [day(rng, task, REFERENCE_DAYS + i, ROWS, kind, size) for i in range(days)]
        for i, newest in enumerate(live):
            outcomes.append(judge(intervals, live[: max(0, i - label_days)] if label_days else [], newest))
    return outcomes


def rows(small: bool, progress: Callable[[str], None]) -> Iterator[Row]:
    """The rows of the section.

    Args:
        small: Few streams.
        progress: Shows a line.
    """
    for task in TASKS:
        streams = 2 if small else STREAMS[task.kind]
        for kind, sizes in STRENGTHS.items():
            for size in sizes:
                progress(f"{task.kind}, {kind} {size:g}")
                yield _row(task, kind, size, coverage(task, kind, size, streams, 4), "")
        progress(f"{task.kind}, concept 1 with labels")
        outcomes = coverage(task, "concept", 1.0, max(1, streams // 2), 8, LABEL_DAYS)
        after = [outcome for i, outcome in enumerate(outcomes) if i % 8 > LABEL_DAYS]
        yield _row(task, "concept", 1.0, after, f", once labels that are {LABEL_DAYS} days late have come")


def _row(task: Task, kind: Kind, size: float, outcomes: list[Outcome], more: str) -> Row:
    refused = sum(bool(outcome.code) for outcome in outcomes)
    covered = sum(outcome.covered for outcome in outcomes)
    widths = [outcome.width for outcome in outcomes if not outcome.code]
    note = f"{len(outcomes)} days: {covered} covered, {refused} refused"
    if widths:
        note += f"; half width {np.median(widths):.0%} of the estimate"
    work = f"interval of the {task.kind} {loss_name(task)} without labels: {kind} {size:g}{more}"
    return row(work, "days covered or refused, share", (covered + refused) / len(outcomes), "", None, COVERED, note)
