"""False alarms where nothing changed, and power where something did, at an equal false alarm rate.

A window alarms when any of its 50 columns does. Each competitor scores a window; false alarm rates are those of its own
thresholds. For power, the threshold comes from each competitor's own unchanged windows, such that the same share of
them alarms for all. Columns count as the competitor scores them, or are standardized by their scores in unchanged
windows, so that one noisy column does not mask the others; the one that detects more counts. That calibrates peers
better than their users can, who do not know which windows are unchanged.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.monitoring.programs import NAMES, ProgramFailed, run_peer
from benchmarks.monitoring.streams import Change, Frame, columns, frame, joined
from benchmarks.results import Row, Target, row
from benchmarks.serving.environments import InstallFailed
from features.profiles.profile import Profile
from features.profiles.reference_profile import ReferenceProfile
from monitoring.detection.detector import evaluate_run
from monitoring.drift_policy import DAY_S, DriftPolicy
from monitoring.statistics.drift_reference import DriftReference

Progress = Callable[[str], None]
Scores = list[tuple[dict[str, float], bool]]
"""For each window, how far each column is, and whether it alarms by the competitor's own thresholds."""

ALPHA = 0.05
REFERENCE_ROWS, REFERENCES = 20_000, 4
POWER_ROWS = 1_000
QUIET = 5
"""Unchanged windows for each changed one: the threshold, and so all shares, depend on the few most extreme of them."""
LARGE = 10**6
SIZES = (100, 1_000, 10_000, LARGE)
POLICY = DriftPolicy(span=1, test="all", alpha=ALPHA, effect=0.0, min_rows=1)
OURS = {"rayloop": POLICY, "rayloop by its distance": POLICY.model_copy(update={"test": "distance"})}
"""With all statistics of a column, and with the one that is the default."""
CHANGES = (
    *(Change("mean", 1.0, size) for size in (0.1, 0.25, 0.5, 1.0)),
    *(Change("mean", share, 1.0) for share in (0.1, 0.3)),
    *(Change("variance", share, 0.5) for share in (0.3, 1.0)),
    *(Change("missing", share) for share in (0.01, 0.1)),
    *(Change("category", share) for share in (0.01, 0.1)),
    *(Change("mix", share) for share in (0.1, 0.3)),
)
NO_CHANGE = Change()


@dataclass(frozen=True)
class Workload:
    """Numbers of windows: by number of rows, for rayloop and for peers; and for each change."""

    rows: Mapping[int, tuple[int, int]]
    power: int

    @classmethod
    def of(cls, windows: int, sizes: Sequence[int] = SIZES) -> Workload:
        """A million rows take peers minutes a window: they get a hundredth of the windows, at least one."""
        large = max(1, windows // 10), max(1, windows // 100)
        return cls({n: large if n >= LARGE else (windows, windows) for n in sizes}, windows)


@dataclass(frozen=True)
class WindowScores:
    """Scores of one competitor, or the reason why there are none."""

    scores: Scores
    failure: str = ""

    @property
    def alarmed(self) -> float | None:
        return float(np.mean([alarmed for _, alarmed in self.scores])) if self.scores else None


@dataclass(frozen=True)
class ScoreScale:
    """A competitor's columns on one scale: log scores minus ``center``, divided by ``spread``.

    ``limit`` is the quantile 1 - ALPHA of the unchanged windows' largest scores.
    """

    columns: tuple[str, ...]
    center: np.ndarray
    spread: np.ndarray
    limit: float

    @classmethod
    def both(cls, scores: Scores) -> tuple[ScoreScale, ScoreScale]:
        """Return the scale of raw scores, and the one standardized by these unchanged windows."""
        columns = tuple(scores[0][0])
        logs = _logs(scores, columns)
        center = np.median(logs, axis=0)
        spread = np.median(np.abs(logs - center), axis=0)
        # A column with constant scores must not turn its smallest change into the largest of all.
        spread = np.maximum(spread, 0.1 * np.median(spread) + 1e-9)
        as_scored = cls._at(columns, logs, np.zeros(len(columns)), np.ones(len(columns)))
        return as_scored, cls._at(columns, logs, center, spread)

    @classmethod
    def _at(cls, columns: tuple[str, ...], logs: np.ndarray, center: np.ndarray, spread: np.ndarray) -> ScoreScale:
        farthest = ((logs - center) / spread).max(axis=1)
        return cls(columns, center, spread, float(np.quantile(farthest, 1.0 - ALPHA, method="higher")))

    def alarms(self, scores: Scores) -> np.ndarray:
        """Return which windows exceed the limit, bool [windows]."""
        far: np.ndarray = ((_logs(scores, self.columns) - self.center) / self.spread).max(axis=1) > self.limit
        return far


def _logs(scores: Scores, columns: tuple[str, ...]) -> np.ndarray:
    return np.log(np.maximum([[ratios.get(name, 0.0) for name in columns] for ratios, _ in scores], 1e-300))


def false_alarms(scale: Workload, progress: Progress) -> Iterator[Row]:
    for n, (ours, theirs) in scale.rows.items():
        results = {
            name: score_windows(name, n, NO_CHANGE, ours if name == "rayloop" else theirs, progress)
            for name in competitors()
        }
        work = f"false alarms, 50 columns, windows of {n:,} rows, nothing changed"
        rayloop, count = results["rayloop"].alarmed or 0.0, len(results["rayloop"].scores)
        # Chance alone exceeds this bound in 1 of 1,000 runs of this benchmark.
        most = ALPHA + 3.1 * math.sqrt(ALPHA * (1 - ALPHA) / count)
        for peer in NAMES:
            note = (
                f"nominal rate {ALPHA:g} per window; {count} windows, {len(results[peer].scores)} of the peer's;"
                " the bound allows for chance"
            )
            yield row(
                work, "windows that alarm, share", rayloop, peer, results[peer].alarmed,
                Target(of="value", sign="≤", limit=round(most, 3)), results[peer].failure or note,
            )  # fmt: skip


def power(scale: Workload, changes: Sequence[Change], progress: Progress) -> Iterator[Row]:
    unchanged = {
        name: score_windows(name, POWER_ROWS, NO_CHANGE, QUIET * scale.power, progress) for name in competitors()
    }
    scales = {name: ScoreScale.both(scores.scores) for name, scores in unchanged.items() if scores.scores}
    for change in changes:
        scores = {name: score_windows(name, POWER_ROWS, change, scale.power, progress) for name in scales}
        shares = {
            name: max(float(np.mean(scale.alarms(one.scores))) for scale in scales[name])
            for name, one in scores.items()
            if one.scores
        }
        work = f"power at {ALPHA:.0%} false alarms, windows of {POWER_ROWS:,} rows: {change}"
        own = scores["rayloop"].alarmed or 0.0
        for peer in NAMES:
            note = (
                unchanged[peer].failure
                or f"by its own threshold rayloop finds {own:.2f};"
                f" {scale.power} windows, {QUIET * scale.power} unchanged"
            )
            yield row(
                work, "changed windows found, share", shares["rayloop"], peer, shares.get(peer),
                Target(of="ratio", sign="≥", limit=1.0), note,
            )  # fmt: skip


def score_windows(name: str, n: int, change: Change, windows: int, progress: Progress) -> WindowScores:
    """Score ``windows`` windows of ``n`` rows, spread over several sampled references."""
    progress(f"{name}: {windows} windows of {n:,} rows, {change.kind}")
    scores: Scores = []
    # Scores of windows much larger than their reference mostly show how unusual the reference is: use a new one each.
    references = windows if n >= LARGE else REFERENCES
    for turn, part in enumerate(np.array_split(np.arange(windows), references)):
        # Seeds differ between references, unchanged and changed windows, and numbers of rows.
        first = 10_000 * (turn + 1) + 1_000_000 * (0 if change == NO_CHANGE else 1 + CHANGES.index(change)) + n * 10**8
        seeds = [first + int(i) for i in part]
        try:
            if seeds:
                frames = (frame(seed, n, change) for seed in seeds)
                scores += score_frames(name, [frame(turn, REFERENCE_ROWS)], frames, progress)
        except (ProgramFailed, InstallFailed) as error:
            return WindowScores([], f"could not be run: {error}")
    return WindowScores(scores)


def competitors() -> tuple[str, ...]:
    return ("rayloop", *NAMES)


def score_frames(name: str, reference: Sequence[Frame], windows: Iterable[Frame], progress: Progress) -> Scores:
    """Score each window. rayloop gets the reference by days, as it stores one; peers get all of it at once."""
    if name in OURS:
        days = {DAY_S * i: _profile(day) for i, day in enumerate(reference)}
        drift_reference = DriftReference(ReferenceProfile.build(days, DAY_S), 1, ())
        return [_score(drift_reference, OURS[name], window) for window in windows]
    with tempfile.TemporaryDirectory() as room:
        paths = [str(window.save(Path(room) / f"{i}.npz")) for i, window in enumerate(windows)]
        plan = {"reference": str(joined(reference).save(Path(room) / "reference.npz")), "windows": paths}
        return [(score, alarmed) for score, alarmed in run_peer(name, "alarms", plan, progress)]


def _score(drift_reference: DriftReference, policy: DriftPolicy, window: Frame) -> tuple[dict[str, float], bool]:
    result = evaluate_run(drift_reference, policy, "1", (DAY_S,), _profile(window))
    return {name: 1.0 / column.p_value for name, column in result.columns.items()}, bool(result.drifted)


def _profile(window: Frame) -> Profile:
    profile = Profile.empty(columns(window.numbers.shape[1], window.codes.shape[1]))
    profile.update(window.table())
    return profile
