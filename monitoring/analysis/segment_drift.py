"""Drift within declared segments of the traffic, and of labels, each against its own past. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from cluster.values import Task
from features.definitions import Column
from features.profiles.profile import Profile, append_output, output_column
from features.profiles.reference_profile import ReferenceProfile, profile_windows
from monitoring.detection.detector import WindowResult, evaluate_run
from monitoring.drift_policy import DriftPolicy, LogAnalysisPolicy
from monitoring.samples.logged_rows import LoggedRows
from monitoring.statistics.drift_reference import DriftReference

LABEL = "label"
TIME = "as_of"


@dataclass(frozen=True)
class ReferenceRows:
    """Rows of a version's training frame.

    Attributes:
        train: Rows that the version was trained on.
        held_out: Labeled rows that it was not trained on.
    """

    train: LoggedRows
    held_out: LoggedRows


def segment_values(past: ReferenceRows, settings: LogAnalysisPolicy) -> list[tuple[str, str]]:
    """Column and value of each segment: the most frequent training values of each declared column."""
    segments: list[tuple[str, str]] = []
    for column in settings.segments:
        if column in past.train.frame.column_names:
            values = past.train.frame.column(column).drop_null().cast(pa.string()).to_pylist()
            segments += [(column, value) for value, _ in Counter(values).most_common(settings.largest)]
    return segments


def evaluate_segments(
    past: ReferenceRows,
    run: LoggedRows,
    task: Task,
    columns: Sequence[Column],
    policy: DriftPolicy,
    settings: LogAnalysisPolicy,
) -> dict[str, WindowResult]:
    """Compare each segment with enough rows with its own past.

    The level is divided by the number of segments, so that all together have the false alarms of one analysis.

    Args:
        past: Rows of the version's training frame.
        run: Live rows.
        task: Task of the model.
        columns: Features.
        policy: Windows, effect, monitored columns and level.
        settings: Segments.

    Returns:
        Results by segment ("carrier = AA").
    """
    profiled = (*columns, output_column(task))
    watched = tuple(w for w in policy.watch if w.column in {c.name for c in profiled})
    segments = segment_values(past, settings) if "segment" in policy.kinds else []
    train, run = _with_output(past.train, task), _with_output(run, task)
    results = {}
    for column, value in segments:
        reference, live = train.with_value(column, value), run.with_value(column, value)
        if len(live) >= policy.min_rows and len(reference) >= policy.min_rows:
            level = policy.level("segment") / len(segments)
            strict = policy.model_copy(update={"alpha": level, "false_alarms": None, "watch": watched})
            # The segment's own column has one value there.
            others = tuple(c for c in profiled if c.name != column)
            results[f"{column} = {value}"] = _evaluate(reference, live, others, strict)
    return results


def evaluate_labels(past: ReferenceRows, run: LoggedRows, task: Task, policy: DriftPolicy) -> WindowResult | None:
    """Compare the run's labels with those of training rows; None while too few have arrived, or when that is off.

    Args:
        past: Rows of the training frame.
        run: Rows of the windows that are analyzed.
        task: Task of the model.
        policy: Drift policy of the model.
    """
    reference, live = past.train.labeled_rows, run.labeled_rows
    if "labels" not in policy.kinds or len(live) < policy.min_rows or len(reference) < policy.min_rows:
        return None
    column = Column(name=LABEL, kind="number" if task.kind == "regression" else "category")
    strict = policy.model_copy(update={"alpha": policy.level("labels"), "false_alarms": None, "watch": ()})
    return _evaluate(_with_labels(reference, task), _with_labels(live, task), (column,), strict)


def _evaluate(past: LoggedRows, run: LoggedRows, columns: tuple[Column, ...], policy: DriftPolicy) -> WindowResult:
    """Compare columns of a run's frame with those of the past."""
    windows = profile_windows(_with_time(past.frame, past.times), columns, policy.window_s, TIME)
    reference_profile = ReferenceProfile.build(windows, policy.window_s)
    live_profile = Profile.empty(columns)
    live_profile.update(run.frame)
    starts = tuple(float(s) for s in np.unique(np.floor(run.times / policy.window_s) * policy.window_s))
    # A run with a missing window is still a run.
    span = policy.model_copy(update={"span": len(starts), "window_rows": None})
    return evaluate_run(DriftReference(reference_profile, len(starts), policy.watch), span, "", starts, live_profile)


def _with_output(rows: LoggedRows, task: Task) -> LoggedRows:
    return replace(rows, frame=append_output(rows.frame, task, rows.scores))


def _with_labels(rows: LoggedRows, task: Task) -> LoggedRows:
    return replace(rows, frame=pa.table({LABEL: _label_values(task, rows.labels)}))


def _with_time(frame: pa.Table, times: np.ndarray) -> pa.Table:
    stamps = pa.array((times * 1e6).astype(np.int64)).cast(pa.timestamp("us", "UTC"))
    rest = frame.drop_columns([TIME]) if TIME in frame.column_names else frame
    return rest.append_column(TIME, stamps)


def _label_values(task: Task, labels: np.ndarray) -> pa.Array:
    if task.kind == "regression":
        return pa.array(labels, pa.float64())
    return pa.array(np.asarray(task.classes or ("0", "1"))[labels.astype(np.int64)])
