"""Drift within declared parts of the traffic, and of labels: each against its own past, by the monitor's own test. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cluster.values import Task
from features.definitions import Column
from features.profiles.profile import Profile
from features.profiles.reference_profile import ReferenceProfile, profile_windows
from monitoring.detection.detector import WindowResult, judge
from monitoring.drift_policy import DriftPolicy, LookPolicy
from monitoring.samples.logged_rows import Rows
from monitoring.statistics.calibration import Calibration

LABEL = "label"
TIME = "as_of"


@dataclass(frozen=True)
class Past:
    """Rows of a version's frame: those that it was trained on, and labelled ones that it was not."""

    train: Rows
    held_out: Rows

    def held_out_windows(self, policy: DriftPolicy) -> Iterator[Rows]:
        """The held-out rows by window, where a window has as many as are asked of a live one."""
        starts = np.floor(self.held_out.when / policy.window_s) * policy.window_s
        for start in np.unique(starts):
            rows = self.held_out.of(starts == start)
            if len(rows) >= policy.min_rows:
                yield rows


def values_of(past: Past, policy: LookPolicy) -> list[tuple[str, str]]:
    """Column and value of each segment: the largest values in training of each declared column."""
    found: list[tuple[str, str]] = []
    for column in policy.segments:
        if column in past.train.frame.column_names:
            values = past.train.frame.column(column).drop_null().cast(pa.string()).to_pylist()
            found += [(column, value) for value, _ in Counter(values).most_common(policy.largest)]
    return found


def segment_drift(
    past: Past, run: Rows, task: Task, columns: Sequence[Column], policy: DriftPolicy, asked: LookPolicy
) -> dict[str, WindowResult]:
    """The verdict on each segment with rows enough. Together they err as often as is asked of one look."""
    output = output_column(task)
    profiled = (*columns, output)
    watched = tuple(w for w in policy.watch if w.column in {c.name for c in profiled})
    segments = values_of(past, asked)
    found = {}
    for column, value in segments:
        ours, theirs = past.train.with_value(column, value), run.with_value(column, value)
        if len(theirs) >= policy.min_rows and len(ours) >= policy.min_rows:
            level = asked.alpha / len(segments)
            strict = policy.model_copy(update={"alpha": level, "false_alarms": None, "watch": watched})
            # Its own column has one value there.
            kept = tuple(c for c in profiled if c.name != column)
            frames = [_with_output(rows, task, output) for rows in (ours, theirs)]
            found[f"{column} = {value}"] = _judged(frames[0], frames[1], ours, theirs, kept, strict)
    return found


def labels_moved(past: Past, run: Rows, task: Task, policy: DriftPolicy, asked: LookPolicy) -> WindowResult | None:
    """The verdict on the labels that have come of the run; None while they are too few."""
    ours, theirs = past.train.labelled, run.labelled
    if len(theirs) < policy.min_rows or len(ours) < policy.min_rows:
        return None
    column = Column(name=LABEL, kind="number" if task.kind == "regression" else "category")
    strict = policy.model_copy(update={"alpha": asked.alpha, "false_alarms": None, "watch": ()})
    frames = [pa.table({LABEL: _label_values(task, rows.labels)}) for rows in (ours, theirs)]
    return _judged(frames[0], frames[1], ours, theirs, (column,), strict)


def output_column(task: Task) -> Column:
    """What the model says, as replicas profile it."""
    multiclass = task.kind == "multiclass"
    return Column(name="predicted", kind="category") if multiclass else Column(name="score", kind="number")


def _judged(
    ours: pa.Table, theirs: pa.Table, past: Rows, run: Rows, columns: tuple[Column, ...], policy: DriftPolicy
) -> WindowResult:
    windows = profile_windows(_timed(ours, past.when), columns, policy.window_s, TIME)
    reference = ReferenceProfile.build(windows, policy.window_s)
    live = Profile.empty(columns)
    live.update(theirs)
    starts = tuple(float(s) for s in np.unique(np.floor(run.when / policy.window_s) * policy.window_s))
    # A run that some window of is missing in is a run all the same.
    span = policy.model_copy(update={"span": len(starts), "window_rows": None})
    return judge(Calibration(reference, len(starts), policy.watch), span, "", starts, live)


def _timed(frame: pa.Table, when: np.ndarray) -> pa.Table:
    stamps = pa.array((when * 1e6).astype(np.int64)).cast(pa.timestamp("us", "UTC"))
    kept = frame.drop_columns([TIME]) if TIME in frame.column_names else frame
    return kept.append_column(TIME, stamps)


def _with_output(rows: Rows, task: Task, output: Column) -> pa.Table:
    if task.kind != "multiclass":
        return rows.frame.append_column(output.name, pa.array(rows.scores, pa.float64()))
    return rows.frame.append_column(output.name, pa.array(np.asarray(task.classes)[rows.scores.argmax(axis=1)]))


def _label_values(task: Task, labels: np.ndarray) -> pa.Array:
    if task.kind == "regression":
        return pa.array(labels, pa.float64())
    names = np.asarray(task.classes or ("0", "1"))
    return pa.array(names[labels.astype(np.int64)])
