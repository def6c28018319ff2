"""Retraining on an alarm, beside never and by the calendar, on streams of real rows.

The first quarter of a stream trains the first model. Then time passes window by window: the model scores the window's
rows before their labels are known, the drift monitor closes the window, and its alarms retrain, within the default
policy's cooldown and budget: labels known by then, the newest spans held out for validation and for the gate, which
keeps the champion unless the candidate is as good. The calendar retrains as often as alarms did, in equal steps, or
every 30 days, with the same gate; never does not. All score the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.models.streams import TASK, Stream, streams
from benchmarks.results import Row, Target, row
from cluster.values import Alarm
from features.encoder import Encoder
from features.profiles.profile import Profile, append_output, output_column
from features.profiles.reference_profile import ReferenceProfile, profile_windows
from features.split import PARTS, SPLIT, TEST, TRAIN, VALIDATION, TimeSplit
from features.types import AS_OF, LABEL
from monitoring.detection.alarm_actions import AlarmAction
from monitoring.drift_policy import MONTH_S, DriftPolicy
from monitoring.runtime.monitor import DriftMonitor
from monitoring.runtime.state_store import MonitorStore
from trainers import metrics
from trainers.evaluation.lightgbm_baseline import FittedBaseline, fit_baseline
from trainers.evaluation.quality_gate import GatePolicy, ScoredCandidate, check_candidate

FIRST_SHARE = 0.25
"""Share of a stream's time that trains the first model."""
GATE = GatePolicy(margin=0.02)
BLOCK_WINDOWS, RESAMPLES = 7, 2_000
"""Windows that are resampled together, for rows of one week depend on each other; and samples."""
Z = 1.96
SMALL_WINDOWS = 20


class Version(NamedTuple):
    """A trained model, and the reference of its monitor."""

    model: FittedBaseline
    reference: bytes
    test: pa.Table
    """The rows of its gate."""


@dataclass
class Replay:
    """What happened when a stream passed."""

    losses: list[np.ndarray] = field(default_factory=list)
    """Log losses of the rows of each window."""
    retrained: list[int] = field(default_factory=list)
    """Windows after which a model was retrained."""
    promoted: int = 0
    """Candidates that took over."""


def rows(small: bool, progress: Callable[[str], None]) -> Iterator[Row]:
    """Replay every stream under each policy."""
    for stream in streams(progress):
        replays = StreamReplays(stream, SMALL_WINDOWS if small else None, progress)
        by_alarm = replays.replay()
        count = len(by_alarm.retrained)
        steps = {round(i * len(replays.windows) / (count + 1)) for i in range(1, count + 1)}
        others = {"never": replays.replay(frozenset())}
        if steps:
            others[f"by the calendar, {count} runs"] = replays.replay(frozenset(steps))
        others["every 30 days"] = replays.replay(replays.every(MONTH_S))
        for name, other in others.items():
            yield compare(stream, by_alarm, name, other)


def compare(stream: Stream, ours: Replay, name: str, theirs: Replay) -> Row:
    """Not worse beyond noise: the ratio of losses is at most 1 plus what chance explains."""
    mine, other = (float(np.mean(np.concatenate(each.losses))) for each in (ours, theirs))
    error = _standard_error(ours, theirs)
    low, high = mine - other - Z * error, mine - other + Z * error
    rows_seen = sum(map(len, ours.losses))
    note = (
        f"{rows_seen:,} rows, {len(ours.losses)} windows of {stream.window_s / 86_400:g} d;"
        f" {len(ours.retrained)} alarms retrained, {ours.promoted} promoted ({theirs.promoted} there);"
        f" difference {mine - other:+.4f}, 95% interval {low:+.4f} to {high:+.4f}"
    )
    limit = Target(of="ratio", sign="≤", limit=round(1 + Z * error / other, 4))
    return row(f"retraining on alarms, {stream.name}", "log loss of live rows", mine, name, other, limit, note)


def _standard_error(ours: Replay, theirs: Replay) -> float:
    """Of the mean difference of losses, by moving blocks of windows (Künsch 1989, Annals of Statistics 17, 1217)."""
    sums = np.array([float(np.sum(a - b)) for a, b in zip(ours.losses, theirs.losses, strict=True)])
    counts = np.array([len(a) for a in ours.losses])
    size = min(BLOCK_WINDOWS, len(sums))
    starts = np.random.default_rng(0).integers(0, len(sums) - size + 1, (RESAMPLES, math.ceil(len(sums) / size)))
    drawn = (starts[:, :, None] + np.arange(size)).reshape(RESAMPLES, -1)
    return float(np.std(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)))


class StreamReplays:
    """A stream, cut into windows, and the models that were trained on it."""

    def __init__(
        self, stream: Stream, most: int | None = None, progress: Callable[[str], None] = lambda line: None
    ) -> None:
        self.stream, self._progress = stream, progress
        self.policy = DriftPolicy(window_s=stream.window_s)
        first, last = stream.rows[AS_OF].min(), stream.rows[AS_OF].max()
        assert isinstance(first, datetime)
        assert isinstance(last, datetime)
        self.first = first
        live_from = math.ceil((first + FIRST_SHARE * (last - first)).timestamp() / stream.window_s)
        number = (pl.col(AS_OF).dt.epoch("s") / stream.window_s).floor().cast(pl.Int64).alias("window")
        live = stream.rows.with_columns(number).filter(pl.col("window") >= live_from).sort("window", AS_OF)
        self.windows = [part.drop("window") for part in live.partition_by("window", maintain_order=True)][:most]
        self.ends = [(int(part) + 1) * stream.window_s for part in live["window"].unique(maintain_order=True)][:most]
        self._version_at = cache(self._train)

    def replay(self, scheduled: frozenset[int] | None = None) -> Replay:
        """Let the stream pass. ``scheduled`` are the windows after which a model retrains; None: those with alarms."""
        seen, alarms = Replay(), list[Alarm]()
        version = self._version_at(self.ends[0] - self.stream.window_s)
        with TemporaryDirectory() as folder:
            monitor = DriftMonitor(self.stream.name, MonitorStore(Path(folder) / "m"), {"retrain": _note(alarms)})
            monitor.watch("0", version.reference, self.policy)
            for i, (window, end) in enumerate(zip(self.windows, self.ends, strict=True)):
                table = window.to_arrow()
                scores = version.model.score(table)
                seen.losses.append(_log_losses(scores, window[LABEL].to_numpy()))
                for start, profile in self._profiles(append_output(table, TASK, scores)).items():
                    monitor.observe(monitor.version, start, profile.to_bytes())
                monitor.close(end)
                if i not in scheduled if scheduled is not None else not alarms:
                    continue
                alarms.clear()
                self._progress(f"{self.stream.name}: retrains after window {i + 1} of {len(self.windows)}")
                seen.retrained.append(i)
                candidate = self._version_at(end)
                if _as_good(candidate, version):
                    version, seen.promoted = candidate, seen.promoted + 1
                    monitor.watch(str(i + 1), version.reference, self.policy)
        return seen

    def every(self, seconds: float) -> frozenset[int]:
        """The windows after which a schedule retrains."""
        turns = [int((end - self.ends[0]) // seconds) for end in self.ends]
        return frozenset(i for i, (before, turn) in enumerate(pairwise(turns), 1) if turn > before)

    def _train(self, now: float) -> Version:
        """Train on the labels known by ``now``, as a retraining does."""
        at, holdout = datetime.fromtimestamp(now, UTC), self.stream.holdout
        split = TimeSplit(start=self.first, validate_from=at - 2 * holdout, test_from=at - holdout, end=at)
        parted = self.stream.rows.with_columns(split.split_expr().alias(SPLIT)).drop_nulls(SPLIT)
        parts = {name: parted.filter(pl.col(SPLIT) == name).drop(SPLIT).to_arrow() for name in PARTS}
        encoder = Encoder.fit(self.stream.columns, parts[TRAIN])
        model = fit_baseline(TASK, encoder, parts[TRAIN], parts[VALIDATION])
        scored = append_output(parts[TRAIN], TASK, model.score(parts[TRAIN]))
        reference = ReferenceProfile.build(self._profiles(scored), self.stream.window_s)
        return Version(model, reference.to_bytes(), parts[TEST])

    def _profiles(self, scored: pa.Table) -> dict[float, Profile]:
        columns = (*self.stream.columns, output_column(TASK))
        return profile_windows(scored, columns, self.stream.window_s, AS_OF)


def _note(alarms: list[Alarm]) -> AlarmAction:
    """The action of an alarm: remember it."""

    def act(alarm: Alarm) -> str:
        alarms.append(alarm)
        return "noted"

    return act


def _as_good(candidate: Version, champion: Version) -> bool:
    """The gate: the candidate is not worse than the champion on the newest rows."""
    labels = candidate.test[LABEL].to_numpy()
    scores = candidate.model.score(candidate.test)
    held_out = metrics.evaluate(TASK, scores, labels)
    scored = ScoredCandidate(TASK, scores, labels, 0.0, held_out, held_out, champion.model.score(candidate.test))
    return check_candidate(GATE, scored).passed


def _log_losses(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    chance = np.clip(np.where(labels == 1, scores, 1 - scores).astype(np.float64), 1e-15, 1)
    return -np.log(chance)
