"""From windows to alarms: what the policy asks for, what a window showed, when to call out.

A detector in river's manner: ``update`` with a window's result, then read ``alarm``. It calls out once per
episode: after an alarm it stays silent until ``release`` windows in a row were quiet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Self

from pydantic import Field

from cluster.values import Alarm, Frozen
from features.profiles.profile import Profile
from monitoring.drift_policy import DAY_S, DriftPolicy
from monitoring.statistics.calibration import MIN_RUNS, Calibration, rejected
from monitoring.statistics.column_tests import chances
from monitoring.statistics.distances import Direction, Distances
from monitoring.statistics.null_distributions import Chance

NAMED_COLUMNS = 3
"""Columns that a reason sentence names; the alarm itself lists all."""


class ColumnResult(Frozen):
    """A column in one window. ``ratio`` is the statistic divided by ``threshold``; from 1 on it is too far.

    ``strongest`` names the statistic that is least by chance, where all were tested.
    """

    distances: Distances
    direction: Direction
    threshold: float
    ratio: float
    p_value: float
    watched: bool
    drifted: bool
    strongest: str = ""
    mean: float | None = None
    reference_mean: float | None = None


class WindowResult(Frozen):
    """The verdict on the run of windows that ends with the one starting at ``window``.

    ``judged`` is false, and ``note`` says why, when there was too little to judge; ``columns`` is empty then.
    """

    version: str
    window: float
    since: float
    rows: int
    judged: bool
    note: str = ""
    columns: dict[str, ColumnResult] = Field(default_factory=dict)

    @property
    def drifted(self) -> tuple[str, ...]:
        """Watched columns beyond their thresholds, farthest first."""
        found = [name for name, column in self.columns.items() if column.drifted]
        return tuple(sorted(found, key=lambda name: -self.columns[name].ratio))


class DetectorState(Frozen):
    """What a detector remembers between windows: enough to go on after a restart."""

    recent: tuple[bool, ...] = ()
    drifting: bool = False
    quiet: int = 0


class DriftDetector:
    """Calls out drift of one model version."""

    def __init__(self, model: str, version: str, policy: DriftPolicy, state: DetectorState | None = None) -> None:
        self.model = model
        self.version = version
        self.policy = policy
        self.state = state or DetectorState()
        self.alarm: Alarm | None = None

    def update(self, result: WindowResult) -> Self:
        """Take in a closed window; ``alarm`` is then what it raised, or None. An unjudged one changes nothing."""
        self.alarm = None
        if not result.judged:
            return self
        hit = bool(result.drifted)
        recent = (*self.state.recent, hit)[-self.policy.of :]
        quiet = 0 if hit else self.state.quiet + 1
        raised = hit and not self.state.drifting and sum(recent) >= self.policy.needed
        drifting = raised or (self.state.drifting and quiet < self.policy.release)
        self.state = self.state.model_copy(update={"recent": recent, "quiet": quiet, "drifting": drifting})
        if raised:
            self.alarm = self._call(result, sum(recent), len(recent))
        return self

    def _call(self, result: WindowResult, hits: int, seen: int) -> Alarm:
        ratios = {name: column.ratio for name, column in result.columns.items() if column.watched}
        return Alarm(
            model=self.model,
            version=self.version,
            window=result.window,
            reason=reason(result, hits, seen),
            features=dict(sorted(ratios.items(), key=lambda item: -item[1])),
        )


def judge(
    calibration: Calibration, policy: DriftPolicy, version: str, starts: tuple[float, ...], run: Profile
) -> WindowResult:
    """Compare a live run, the windows at ``starts`` merged, with the reference.

    Benjamini-Hochberg over the watched columns decides which are too far; the others are held to the same
    level, for people to look at, and never drift.
    """
    if policy.window_rows is not None and run.rows < policy.window_rows:
        return unjudged(version, starts, run.rows, f"{run.rows:,} of {policy.window_rows:,} rows so far")
    if policy.window_rows is None and len(starts) < policy.span:
        return unjudged(version, starts, run.rows, f"{len(starts)} of {policy.span} windows so far")
    measured = calibration.distances(run)
    found = _chances(calibration, policy, measured, run)
    count = max(1, rejected({name: found[name].p_value for name in calibration.watched}, policy.level))
    level = policy.level * count / len(calibration.watched)
    columns = {
        name: _column(calibration, policy, name, distances, found[name], level, run)
        for name, distances in measured.items()
    }
    return WindowResult(
        version=version,
        window=starts[-1],
        since=starts[0],
        rows=run.rows,
        judged=True,
        note=_note(calibration, measured),
        columns=columns,
    )


def unjudged(version: str, starts: tuple[float, ...], rows: int, note: str) -> WindowResult:
    """A window that there is no verdict on, and why."""
    return WindowResult(version=version, window=starts[-1], since=starts[0], rows=rows, judged=False, note=note)


def reason(result: WindowResult, hits: int, seen: int) -> str:
    """What happened, in a sentence with figures."""
    told = [_told(name, result.columns[name]) for name in result.drifted[:NAMED_COLUMNS]]
    more = len(result.drifted) - len(told)
    span = f"{day(result.since)} to {day(result.window)}" if result.since < result.window else day(result.window)
    often = f"{hits} of the last {seen} windows drifted; " if seen > 1 else ""
    return f"{often}{span}, {result.rows:,} rows: {'; '.join(told)}" + (f"; and {more} more" if more else "")


def _note(calibration: Calibration, measured: Mapping[str, Distances]) -> str:
    notes = []
    if calibration.runs < MIN_RUNS:
        notes.append(f"the reference holds {calibration.runs} runs of windows: only sampling noise is tested against")
    unseen = [name for name in calibration.watched if not measured[name].rows]
    if unseen:
        notes.append(f"watched, but not in the traffic: {', '.join(unseen)}")
    return "; ".join(notes)


def _chances(
    calibration: Calibration, policy: DriftPolicy, measured: Mapping[str, Distances], run: Profile
) -> dict[str, Chance]:
    if policy.test == "all":
        return chances(calibration, run)
    nulls = calibration.nulls
    return {
        name: Chance(nulls[name].p_value(d.statistic, d.rows, d.reference_rows), {}) for name, d in measured.items()
    }


def _column(
    calibration: Calibration,
    policy: DriftPolicy,
    name: str,
    distances: Distances,
    chance: Chance,
    level: float,
    run: Profile,
) -> ColumnResult:
    if policy.test == "all":
        threshold = _equivalent(distances.statistic, chance.p_value, level, policy.effect)
    else:
        null = calibration.nulls[name]
        threshold = max(policy.effect, null.threshold(level, distances.rows, distances.reference_rows))
    watched = name in calibration.watched
    too_far = chance.p_value <= level and distances.statistic >= policy.effect
    return ColumnResult(
        distances=distances,
        direction=calibration.directions[name],
        threshold=threshold,
        ratio=distances.statistic / threshold if threshold else 0.0,
        p_value=chance.p_value,
        watched=watched,
        drifted=watched and too_far,
        strongest=chance.strongest,
        mean=_mean(run, name),
        reference_mean=_mean(calibration.reference.total, name),
    )


def _equivalent(statistic: float, p_value: float, level: float, effect: float) -> float:
    """A threshold for the distance where p-values are of other statistics: as far from it as log p is from its level."""
    return max(effect, statistic * math.log(level) / min(math.log(p_value), -1e-9))


def _mean(profile: Profile, name: str) -> float | None:
    summary = profile.numbers.get(name)
    return summary.mean if summary is not None and summary.count else None


def _told(name: str, column: ColumnResult) -> str:
    means = ""
    if column.mean is not None and column.reference_mean is not None:
        means = f", mean {column.mean:.3g} against {column.reference_mean:.3g} in training"
    shown = f", most in {column.strongest.replace('_', ' ')}" if column.strongest else ""
    moved = f"{column.distances.statistic:.2f} of rows moved, {column.threshold:.2f} allowed, p = {column.p_value:.2g}{shown}"
    return f"{name} is {column.ratio:.1f} x its threshold ({moved}{means})"


def day(seconds: float) -> str:
    when = datetime.fromtimestamp(seconds, UTC)
    return f"{when:%Y-%m-%d}" if seconds % DAY_S == 0 else f"{when:%Y-%m-%d %H:%M}"
