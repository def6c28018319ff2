"""From windows to alarms: how far each column moved, and whether that raises an alarm. Pure.

A detector in the style of river: ``update`` with a window's result, then read ``alarm``. It raises one alarm per
episode: after an alarm it stays silent until ``release`` windows in a row were quiet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import Field

from cluster.times import format_utc
from cluster.values import Alarm, Frozen
from features.profiles.profile import Profile
from monitoring.drift_policy import DAY_S, DriftPolicy
from monitoring.statistics.column_tests import p_values
from monitoring.statistics.distances import Distances
from monitoring.statistics.drift_reference import DriftReference, count_discoveries
from monitoring.statistics.drift_statistics import Direction
from monitoring.statistics.null_distributions import MIN_RUNS, Significance

MAX_NAMED_COLUMNS = 3
"""Columns that a reason sentence names; the alarm itself lists all."""


class ColumnResult(Frozen):
    """A column in one window."""

    distances: Distances
    direction: Direction
    threshold: float
    """The distance from which on the column is too far."""
    ratio: float
    """The distance divided by its threshold."""
    p_value: float
    watched: bool
    """Whether it is a monitored column."""
    drifted: bool
    """Monitored, and too far."""
    strongest: str = ""
    """The statistic with the smallest p-value, where all were tested."""
    mean: float | None = None
    reference_mean: float | None = None


class WindowResult(Frozen):
    """The result of the run of windows that ends with the one starting at ``window``."""

    version: str
    window: float
    """Start of the newest window, seconds since the epoch, event time."""
    since: float
    """Start of the oldest window of the run."""
    rows: int
    judged: bool
    """False for a skipped window, which has no columns; ``note`` says why."""
    note: str = ""
    columns: dict[str, ColumnResult] = Field(default_factory=dict)

    @property
    def drifted(self) -> tuple[str, ...]:
        """Monitored columns beyond their thresholds, farthest first."""
        names = [name for name, column in self.columns.items() if column.drifted]
        return tuple(sorted(names, key=lambda name: -self.columns[name].ratio))


class DetectorState(Frozen):
    """What a detector remembers between windows: enough to continue after a restart."""

    recent: tuple[bool, ...] = ()
    """Whether each of the newest windows drifted."""
    drifting: bool = False
    """In an episode: an alarm was raised, and traffic has not been quiet for long enough."""
    quiet: int = 0
    """Quiet windows in a row."""


class DriftDetector:
    """Raises alarms about drift of one model version.

    Attributes:
        state: What the detector remembers.
    """

    def __init__(self, model: str, version: str, policy: DriftPolicy, state: DetectorState | None = None) -> None:
        """Start a detector, or continue from ``state``."""
        self.model = model
        self.version = version
        self.policy = policy
        self.state = state or DetectorState()

    def update(self, result: WindowResult) -> Alarm | None:
        """Add the result of a closed window, and return the alarm that it raises. A skipped window changes nothing."""
        if not result.judged:
            return None
        hit = bool(result.drifted)
        recent = (*self.state.recent, hit)[-self.policy.of :]
        quiet = 0 if hit else self.state.quiet + 1
        starts = hit and not self.state.drifting and sum(recent) >= self.policy.needed
        drifting = starts or (self.state.drifting and quiet < self.policy.release)
        self.state = self.state.model_copy(update={"recent": recent, "quiet": quiet, "drifting": drifting})
        if not starts:
            return None
        ratios = {name: column.ratio for name, column in result.columns.items() if column.watched}
        return Alarm(
            model=self.model,
            version=self.version,
            window=result.window,
            reason=describe_drift(result, sum(recent), len(recent)),
            features=dict(sorted(ratios.items(), key=lambda item: -item[1])),
            level=self.policy.level(),
            monthly=self.policy.monthly("drift"),
        )


def evaluate_run(
    drift_reference: DriftReference, policy: DriftPolicy, version: str, starts: tuple[float, ...], run: Profile
) -> WindowResult:
    """Compare a live run with the reference.

    Benjamini-Hochberg over the monitored columns decides which are too far; the others are compared with the same
    level, for information, and never drift.

    Args:
        drift_reference: The reference and its null distributions.
        policy: Level, effect and windows.
        version: Version that served the run.
        starts: Starts of the run's windows, ascending, seconds since the epoch.
        run: The merged profile of these windows.

    Returns:
        The result; a skipped one while the run has too few rows or windows.
    """
    if policy.window_rows is not None and run.rows < policy.window_rows:
        return skipped_window(version, starts, run.rows, f"{run.rows:,} of {policy.window_rows:,} rows so far")
    if policy.window_rows is None and len(starts) < policy.span:
        return skipped_window(version, starts, run.rows, f"{len(starts)} of {policy.span} windows so far")
    distances = drift_reference.distances(run)
    tests = _test_columns(drift_reference, policy, distances, run)
    monitored = drift_reference.monitored_columns
    count = max(1, count_discoveries({name: tests[name].p_value for name in monitored}, policy.level()))
    level = policy.level() * count / len(monitored)
    columns = {
        name: _column_result(drift_reference, policy, name, distances[name], tests[name], level, run)
        for name in distances
    }
    return WindowResult(
        version=version,
        window=starts[-1],
        since=starts[0],
        rows=run.rows,
        judged=True,
        note=_note(drift_reference, distances),
        columns=columns,
    )


def skipped_window(version: str, starts: tuple[float, ...], rows: int, note: str) -> WindowResult:
    """The result of a run that is not evaluated.

    Args:
        version: Version that answered.
        starts: Starts of the run's windows, ascending, seconds since the epoch.
        rows: Rows of the run.
        note: Why it is not evaluated.
    """
    return WindowResult(version=version, window=starts[-1], since=starts[0], rows=rows, judged=False, note=note)


def describe_drift(result: WindowResult, hits: int, windows: int) -> str:
    """What happened, in a sentence with figures.

    Args:
        result: A drifted window.
        hits: Drifted windows among the last ``windows``.
        windows: Windows that were counted.
    """
    columns = [_describe_column(name, result.columns[name]) for name in result.drifted[:MAX_NAMED_COLUMNS]]
    more = len(result.drifted) - len(columns)
    often = f"{hits} of the last {windows} windows drifted; " if windows > 1 else ""
    suffix = f"; and {more} more" if more else ""
    return f"{often}{format_span(result.since, result.window)}, {result.rows:,} rows: {'; '.join(columns)}{suffix}"


def format_span(since: float, window: float) -> str:
    """The days, or times, from one window's start to another's."""
    return f"{format_day(since)} to {format_day(window)}" if since < window else format_day(window)


def format_day(seconds: float) -> str:
    """An event time in UTC: the date, with hours and minutes unless it is midnight."""
    return format_utc(seconds, "%Y-%m-%d") if seconds % DAY_S == 0 else format_utc(seconds)


def _note(drift_reference: DriftReference, distances: Mapping[str, Distances]) -> str:
    notes = []
    if drift_reference.runs < MIN_RUNS:
        notes.append(f"the reference contains {drift_reference.runs} runs of windows: only sampling noise is tested")
    absent = [name for name in drift_reference.monitored_columns if not distances[name].rows]
    if absent:
        notes.append(f"monitored, but not in the traffic: {', '.join(absent)}")
    return "; ".join(notes)


def _test_columns(
    drift_reference: DriftReference, policy: DriftPolicy, distances: Mapping[str, Distances], run: Profile
) -> dict[str, Significance]:
    if policy.test == "all":
        return p_values(drift_reference, run)
    nulls = drift_reference.nulls
    return {
        name: Significance(nulls[name].p_value(d.statistic, d.rows, d.reference_rows), {})
        for name, d in distances.items()
    }


def _column_result(
    drift_reference: DriftReference,
    policy: DriftPolicy,
    name: str,
    distances: Distances,
    test: Significance,
    level: float,
    run: Profile,
) -> ColumnResult:
    if policy.test == "all":
        # As far from the distance as log p is from its level: other statistics were tested too.
        equivalent = distances.statistic * math.log(level) / min(math.log(test.p_value), -1e-9)
        threshold = max(policy.effect, equivalent)
    else:
        null = drift_reference.nulls[name]
        threshold = max(policy.effect, null.threshold(level, distances.rows, distances.reference_rows))
    watched = name in drift_reference.monitored_columns
    too_far = test.p_value <= level and distances.statistic >= policy.effect
    return ColumnResult(
        distances=distances,
        direction=drift_reference.directions[name],
        threshold=threshold,
        ratio=distances.statistic / threshold if threshold else 0.0,
        p_value=test.p_value,
        watched=watched,
        drifted=watched and too_far,
        strongest=test.strongest,
        mean=_mean(run, name),
        reference_mean=_mean(drift_reference.profile.total, name),
    )


def _mean(profile: Profile, name: str) -> float | None:
    summary = profile.numbers.get(name)
    return summary.mean if summary is not None and summary.count else None


def _describe_column(name: str, column: ColumnResult) -> str:
    means = ""
    if column.mean is not None and column.reference_mean is not None:
        means = f", mean {column.mean:.3g} against {column.reference_mean:.3g} in training"
    strongest = f", most in {column.strongest.replace('_', ' ')}" if column.strongest else ""
    moved = f"{column.distances.statistic:.2f} of rows moved, {column.threshold:.2f} allowed"
    return f"{name} is {column.ratio:.1f} x its threshold ({moved}, p = {column.p_value:.2g}{strongest}{means})"
