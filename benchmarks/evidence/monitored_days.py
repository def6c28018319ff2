"""Days of simulated models, and the alarms that a monitor's looks raise on them, a year at once.

It calls the pure core of the monitor (null distributions, bounds of losses, intervals of estimates) on counts of whole
days in place of sketches, so that a year of a model takes a second. The domain classifier is too slow for that: its
AUCs are drawn from those that it has on 100 such days. ``python -m benchmarks.evidence.monitored_days`` prints
JSON, so that quiet_year.py can run it with the monitoring code of an earlier commit first on the path; what that
commit lacks is asked for by name.
"""

from __future__ import annotations

import argparse
import inspect
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.values import Task
from features.profiles.reference_profile import Bins
from monitoring.analysis.multivariate_drift import auc_p_value
from monitoring.drift_policy import DAY_S, DriftPolicy, LogAnalysisPolicy
from monitoring.performance import loss_bounds
from monitoring.performance.estimator import PerformanceEstimator
from monitoring.performance.loss_bounds import LabeledLoss
from monitoring.samples.domain_classifier import DomainClassifier
from monitoring.samples.logged_rows import LoggedRows
from monitoring.statistics.distances import alarm_distance
from monitoring.statistics.drift_reference import sum_runs
from monitoring.statistics.drift_statistics import ColumnStatistics, SamplePairs
from monitoring.statistics.null_distributions import DistanceNull

TASK = Task(kind="binary", label="late")
ROWS = 500
TRAIN_DAYS, HELD_OUT_DAYS = 120, 30
SEGMENTS = (0.45, 0.33, 0.22)
EDGES = np.linspace(-2.5, 2.5, 19)
SCORE_EDGES = np.linspace(0.05, 0.95, 19)
DAY_SD, LABEL_SD = 0.2, 0.1
KINDS = ("drift", "quality", "segment", "multivariate", "labels", "estimate")


@dataclass(frozen=True)
class Change:
    """What is different from a day on: inputs move in all rows or in one segment, or labels given inputs change."""

    inputs: float = 0.0
    segment: float = 0.0
    concept: float = 0.0


@dataclass(frozen=True)
class Days:
    """Rows of successive days, [days, rows] or [days, rows, 3]."""

    inputs: np.ndarray
    segments: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def part(self, first: int, last: int) -> Days:
        """Days from ``first`` to before ``last``."""
        return Days(*(values[first:last] for values in (self.inputs, self.segments, self.scores, self.labels)))

    @property
    def cells(self) -> list[np.ndarray]:
        """Counts of each column in each day and segment, [days, segments, cells]; the last two are empty."""
        columns = [np.searchsorted(EDGES, self.inputs[:, :, i]) for i in range(3)]
        return [self._count(each, 20) for each in (*columns, np.searchsorted(SCORE_EDGES, self.scores))]

    def _count(self, cells: np.ndarray, size: int) -> np.ndarray:
        days, width, groups = len(cells), size + 2, len(SEGMENTS)
        place = (np.arange(days)[:, None] * groups + self.segments) * width + cells
        return np.bincount(place.ravel(), minlength=days * groups * width).reshape(days, groups, width)


def simulate(rng: np.random.Generator, days: int, alike: float, change: Change, since: int) -> Days:
    """Rows of a model's days.

    Args:
        rng: Source of randomness.
        days: How many.
        alike: Correlation of the effects of neighboring days.
        change: What is different from day ``since`` on.
        since: That day.
    """
    effects = rng.normal(size=(days, 4))
    for i in range(1, days):
        effects[i] = alike * effects[i - 1] + np.sqrt(1 - alike**2) * effects[i]
    after = (np.arange(days) >= since)[:, None]
    segments = rng.choice(len(SEGMENTS), (days, ROWS), p=SEGMENTS)
    inputs = rng.normal(size=(days, ROWS, 3)) + DAY_SD * effects[:, None, :3]
    inputs[:, :, 0] += after * (change.inputs + change.segment * (segments == 1))
    signal = inputs @ np.array([1.2, 0.5, 0.6]) - 0.5 + LABEL_SD * effects[:, 3:] + after * change.concept
    scores = 1.0 / (1.0 + np.exp(0.5 - inputs @ np.array([1.2, 0.8, 0.0])))
    labels = (rng.random((days, ROWS)) < 1.0 / (1.0 + np.exp(-signal))).astype(float)
    return Days(inputs, segments, scores, labels)


def classifier_aucs(count: int = 100) -> np.ndarray:
    """AUCs of the domain classifier between an ordinary day and others, [count]."""
    rng = np.random.default_rng(99)
    aucs = []
    for _ in range(count):
        days = simulate(rng, 21, 0.0, Change(), 99).inputs
        rest = days[:20].reshape(-1, 3)[rng.choice(20 * ROWS, 2_000, replace=False)]
        aucs.append(DomainClassifier(rest, days[20]).test(("a", "b", "c")).auc)
    return np.array(aucs)


@dataclass
class Monitor:
    """The looks of one model's monitor at whole series of days.

    Attributes:
        policy: The policy.
        floors: Whether smallest effects count; without them p-values alone decide.
    """

    policy: DriftPolicy
    floors: bool
    _settings: LogAnalysisPolicy = field(init=False)

    def __post_init__(self) -> None:
        self._settings = self.policy.log_analysis or LogAnalysisPolicy()

    def level(self, kind: str) -> float:
        """What a look of a kind may spend."""
        level: Any = self.policy.level
        if callable(level):
            return float(level(kind))
        return float(level) if kind == "drift" else self._settings.alpha

    def columns_drift(self, reference: list[np.ndarray], live: list[np.ndarray], level: float) -> np.ndarray:
        """Whether any column drifts, by Benjamini and Hochberg, in each run of days; columns [days, cells]."""
        p_values, distances = [], []
        for past, now in zip(reference, live, strict=True):
            p, distance = self._p_values(past, now, level)
            p_values.append(p)
            distances.append(distance)
        by_column, far = np.array(p_values), np.array(distances) >= (self.policy.effect if self.floors else 0.0)
        ordered = np.sort(by_column, axis=0)
        ranks = level * np.arange(1, len(ordered) + 1)[:, None] / len(ordered)
        limits = np.where(ordered <= ranks, ranks, level / len(ordered)).max(axis=0)
        return np.asarray(((by_column <= limits) & far).any(axis=0))

    def _p_values(self, past: np.ndarray, now: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        """P-values up to the level, 1 for larger ones, and distances, of each run; larger ones reject nothing."""
        span, whole = self.policy.span, past.sum(axis=0)
        column = (
            ColumnStatistics.of_number(Bins(edges=tuple(EDGES)), whole, 1.0)
            if past.shape[1] > 6
            else ColumnStatistics()
        )
        runs, live = sum_runs(past, span), sum_runs(now, span)
        own = alarm_distance(SamplePairs(column, whole - runs, runs))
        shares = whole[:-2] / whole.sum() if column.categorical else np.empty(0)
        more = {"overlap": span} if "overlap" in inspect.signature(DistanceNull).parameters else {}
        null = DistanceNull(own, runs.sum(axis=1), shares, "both", **more)
        distances = alarm_distance(SamplePairs(column, np.broadcast_to(whole, live.shape), live))
        total = int(whole.sum())
        rows, p_values = live.sum(axis=1), np.ones(len(live))
        # With fewer rows than the largest run has, thresholds are higher.
        for i in np.flatnonzero(distances >= null.threshold(level, int(rows.max()), total) - 1e-9):
            p_values[i] = null.p_value(float(distances[i]), int(rows[i]), total)
        return p_values, distances

    def losses_worse(self, held_out: Days, live: Days) -> list[np.ndarray]:
        """Whether the labeled loss is worse, of all rows and of each segment, in each day."""
        level = self.level("quality") / (1 + len(SEGMENTS))
        margin = self._settings.margin if self.floors else 0.0
        parts = [None, *range(len(SEGMENTS))]
        return [self._worse(held_out, live, part, level, margin) for part in parts]

    def _worse(self, held_out: Days, live: Days, part: int | None, level: float, margin: float) -> np.ndarray:
        before, now = ([_losses(days, i, part) for i in range(len(days.labels))] for days in (held_out, live))
        reference = float(np.concatenate(before).mean())
        limit, alpha = reference * (1.0 + margin), level
        if hasattr(loss_bounds, "ordinary_loss"):
            windows = [LabeledLoss.from_losses(losses) for losses in before]
            limit, alpha = max(limit, loss_bounds.ordinary_loss(windows, level / 2)), level / 2
        return np.array([loss_bounds.is_worse(LabeledLoss.from_losses(losses), limit, alpha) for losses in now])

    def estimates_worse(self, held_out: Days, live: Days) -> np.ndarray:
        """Whether the loss estimated without labels is worse, by CBPE, in each day."""
        past = [_logged(held_out, i) for i in range(len(held_out.labels))]
        estimator = PerformanceEstimator(TASK, _joined(past), ())
        margin = self._settings.margin if self.floors else 0.0
        windows = [_logged(live, i) for i in range(len(live.labels))]
        try:
            from monitoring.analysis import window_estimate
            from monitoring.performance.estimate_intervals import IntervalEstimator
        except ImportError:
            before = [estimator.estimate(rows)["CBPE"]["brier"] for rows in past]
            limit = max(max(before), float(np.mean(before)) * (1.0 + margin))
            return np.array([estimator.estimate(rows)["CBPE"]["brier"] > limit for rows in windows])
        intervals, level = (
            IntervalEstimator(estimator, _joined(past), DAY_S, self.policy.min_rows),
            self.level("estimate"),
        )
        estimates = (estimator.estimate(rows)["CBPE"] for rows in windows)
        found = [window_estimate.worse_loss(intervals, each, level, margin) for each in estimates]
        return np.array([each is not None for each in found])

    def findings(self, past: Days, live: Days, aucs: tuple[np.ndarray, np.ndarray]) -> dict[str, list[np.ndarray]]:
        """For each kind, whether each run of days has a finding, [runs], of every name that has episodes of its own."""
        span, train, held_out = self.policy.span, past.part(0, TRAIN_DAYS), past.part(TRAIN_DAYS, len(past.labels))
        before, now = train.cells, live.cells
        whole_before, whole_now = ([cells.sum(axis=1) for cells in side] for side in (before, now))
        segment_level = self.level("segment") / len(SEGMENTS)
        segments = [
            self.columns_drift([c[:, s] for c in before], [c[:, s] for c in now], segment_level)
            for s in range(len(SEGMENTS))
        ]
        labels = [_label_cells(days) for days in (train, live)]
        auc_p = np.array([auc_p_value(float(auc), tuple(aucs[0])) for auc in aucs[1]])
        large = aucs[1] >= (self._settings.auc if self.floors else 0.5)
        return {
            "drift": [self.columns_drift(whole_before, whole_now, self.level("drift"))],
            "segment": segments,
            "labels": [self.columns_drift([labels[0]], [labels[1]], self.level("labels"))],
            "multivariate": [((auc_p <= self.level("multivariate")) & large)[span - 1 :]],
            "quality": [each[span - 1 :] for each in self.losses_worse(held_out, live)],
            "estimate": [self.estimates_worse(held_out, live)[span - 1 :]],
        }


def episodes(found: np.ndarray, release: int) -> np.ndarray:
    """Days on which an episode starts: a finding after ``release`` days without one."""
    days = np.flatnonzero(found)
    return days[np.diff(days, prepend=-(10**9)) > release]


def _losses(days: Days, i: int, part: int | None) -> np.ndarray:
    losses = np.square(days.scores[i] - days.labels[i])
    return np.asarray(losses if part is None else losses[days.segments[i] == part])


def _label_cells(days: Days) -> np.ndarray:
    ones = days.labels.sum(axis=1).astype(np.int64)
    none = np.zeros_like(ones)
    return np.stack([ROWS - ones, ones, none, none, none, none], axis=1)


def _logged(days: Days, i: int) -> LoggedRows:
    frame, ids = pa.table({"x": np.zeros(ROWS)}), np.arange(ROWS)
    return LoggedRows(frame, ids, np.full(ROWS, i * DAY_S), days.scores[i], days.labels[i])


def _joined(parts: list[LoggedRows]) -> LoggedRows:
    columns = (np.concatenate([getattr(p, name) for p in parts]) for name in ("ids", "times", "scores", "labels"))
    return LoggedRows(pa.concat_tables([p.frame for p in parts]), *columns)


def main() -> None:
    """Print, for each model, the days on which each kind of alarm starts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", type=json.loads)
    plan = parser.parse_args().plan
    monitor = Monitor(DriftPolicy(**plan["policy"]), plan["floors"])
    pool, change = np.array(plan["aucs"]), Change(**plan["change"])
    models = []
    for model in plan["models"]:
        rng = np.random.default_rng([plan["seed"], model])
        past_days = TRAIN_DAYS + HELD_OUT_DAYS
        days = simulate(rng, past_days + plan["days"], plan["alike"], change, past_days + plan["since"])
        past, live = days.part(0, past_days), days.part(past_days, past_days + plan["days"])
        drawn = rng.choice(pool, 20 + plan["days"]) + 0.3 * pool.std() * rng.normal(size=20 + plan["days"])
        findings = monitor.findings(past, live, (drawn[:20], drawn[20:]))
        starts = {
            kind: sorted(int(day) for each in found for day in episodes(each, monitor.policy.release))
            for kind, found in findings.items()
        }
        models.append(starts)
    print(json.dumps({"levels": {kind: monitor.level(kind) for kind in KINDS}, "models": models}))


if __name__ == "__main__":
    main()
