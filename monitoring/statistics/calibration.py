"""When is a distance more than ordinary? P-values against two nulls, both of which must be rejected.

Sampling. Live rows are drawn from the reference. By the Dvoretzky-Kiefer-Wolfowitz-Massart inequality in its
two-sample form, and for total variation by McDiarmid's (1989, theorem 3.1),

    P(distance >= s) <= c exp(-2 (s - b)^2 n m / (n + m))

c = 1 one-sided, 2 two-sided; b = 0, for total variation the bound on its mean, sum sqrt(p (1 - p) (1/n + 1/m)) / 2.

Ordinary variation. Days differ from the whole, and neighbouring days resemble each other, far beyond sampling. So
the live run of k windows is ranked among the reference's own runs of k successive windows, each against the rest
of the reference (leave one out): p = (1 + runs at least as far) / (1 + runs), as for conformal p-values (Bates et
al., "Testing for outliers with conformal p-values", Annals of Statistics 2023). A live run with fewer rows than
those gets their noise added, normal with variance (1/n - 1/n_run) / 4. Beyond the farthest run the 1 decays
exponentially with the mean excess over the upper tenth (Pickands 1975; distances are bounded, so that a
straight exponential errs on the quiet side).

The assumption: a run of live windows is exchangeable with the runs of the reference. It is a choice. What
the reference has been through (a season, a storm) is ordinary; what it has not (a season it lacks) is drift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import ndtr

from cluster.errors import ProjectError
from cluster.values import Frozen
from features.profiles.profile import Profile
from features.profiles.reference_profile import TRAILING_CELLS, ReferenceProfile, count_cells
from monitoring.statistics.distances import (
    Direction,
    Distances,
    category_distances,
    category_statistic,
    number_distances,
    number_statistic,
)

MIN_RUNS = 12
"""With fewer runs in the reference its ordinary variation is unknown, and sampling alone is tested."""
TAIL_SHARE = 0.1
MIN_TAIL_SCALE = 0.01
_BISECTIONS = 40


class Watch(Frozen):
    """A column that can raise the alarm, and which way it has to move for that.

    ``direction``: "up" when only larger values than in training are trouble, "down" when smaller ones are.
    Missing and invalid cells count either way.
    """

    column: str
    direction: Direction = "both"


class Null:
    """What is ordinary for one column: distances of the reference's own runs, and their rows."""

    def __init__(self, ordinary: np.ndarray, rows: np.ndarray, shares: np.ndarray, direction: Direction) -> None:
        self.ordinary = ordinary
        self.rows = rows
        self.direction = direction
        self._spread = float(np.sqrt(shares * (1 - shares)).sum() / 2) if shares.size else 0.0
        self._categorical = shares.size > 0
        upper = np.sort(ordinary)[-max(1, math.ceil(TAIL_SHARE * ordinary.size)) :] if ordinary.size else ordinary
        self._tail = max(MIN_TAIL_SCALE, float((upper - upper[0]).mean())) if ordinary.size else MIN_TAIL_SCALE

    def p_value(self, statistic: float, rows: int, reference_rows: int) -> float:
        """Probability of a distance of ``statistic`` or more by sampling or by ordinary variation, the larger."""
        if not rows or not reference_rows:
            return 1.0
        return max(self._by_sampling(statistic, rows, reference_rows), self._by_variation(statistic, rows))

    def threshold(self, alpha: float, rows: int, reference_rows: int) -> float:
        """The least distance whose p-value is at most ``alpha``; 1 when none is."""
        low, high = 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if self.p_value(middle, rows, reference_rows) <= alpha:
                high = middle
            else:
                low = middle
        return high

    def _by_sampling(self, statistic: float, rows: int, reference_rows: int) -> float:
        noise = 1 / rows + 1 / reference_rows
        excess = max(0.0, statistic - self._spread * math.sqrt(noise))
        sides = 1 if self._categorical or self.direction != "both" else 2
        return min(1.0, sides * math.exp(-2 * excess * excess / noise))

    def _by_variation(self, statistic: float, rows: int) -> float:
        if self.ordinary.size < MIN_RUNS:
            return 0.0
        thinner = np.maximum(0.0, 1 / rows - 1 / self.rows)
        centres = self.ordinary + self._spread * (math.sqrt(1 / rows) - np.sqrt(1 / rows - thinner))
        sigma = np.sqrt(thinner) / 2
        beyond = statistic - float(centres.max())
        decay = 1.0 if beyond <= 0 else math.exp(-beyond / (self._tail + float(sigma.max())))
        return min(1.0, (decay + float(_exceeds(centres, sigma, statistic).sum())) / (self.ordinary.size + 1))


class Calibration:
    """The nulls of every column of a reference, for runs of ``span`` windows."""

    def __init__(
        self, reference: ReferenceProfile, span: int, watch: Sequence[Watch], window_rows: int | None = None
    ) -> None:
        """With ``window_rows``, runs are as many successive windows as hold so many rows, in place of ``span``.

        Raises ProjectError when a watched column is not profiled, or a category is given a direction."""
        self.reference = reference
        self.span = span
        self._ends = None if window_rows is None else run_ends(_rows(reference), window_rows)
        directions = _directions(reference, watch)
        self.watched = tuple(directions) if directions else tuple(reference.bins)
        self.directions: dict[str, Direction] = {name: directions.get(name, "both") for name in reference.bins}
        self.whole = {name: cells.sum(axis=0) for name, cells in reference.cells.items()}
        self.nulls = {name: self._null(name) for name in reference.bins}

    @property
    def runs(self) -> int:
        """Runs that the reference holds."""
        return max(0, len(self.reference.starts) - self.span + 1) if self._ends is None else len(self._ends)

    def run_cells(self, name: str) -> np.ndarray:
        """A column's counts in each of the reference's own runs, [runs, cells]."""
        cells = self.reference.cells[name]
        if self._ends is None:
            return run_sums(cells, self.span)
        parts = np.split(cells, self._ends)[: len(self._ends)]
        return np.stack([part.sum(axis=0) for part in parts]) if parts else np.empty((0, cells.shape[1]), np.int64)

    def distances(self, live: Profile) -> dict[str, Distances]:
        """Compare every column of a live run. Raises DataError when it lacks one."""
        measured = {}
        for name, cells in count_cells(self.reference.bins, live).items():
            if self._categorical(name):
                measured[name] = category_distances(self.whole[name], cells)
            else:
                measured[name] = number_distances(self.whole[name], cells, self.directions[name])
        return measured

    def _categorical(self, name: str) -> bool:
        return name in self.reference.total.categories

    def _null(self, name: str) -> Null:
        whole, direction = self.whole[name], self.directions[name]
        runs = self.run_cells(name)
        runs = runs[runs.sum(axis=1) > 0]
        if self._categorical(name):
            ordinary = [category_statistic(whole - run, run) for run in runs]
            shares = whole[:-TRAILING_CELLS] / max(1, whole.sum())
        else:
            ordinary = [number_statistic(whole - run, run, direction) for run in runs]
            shares = np.empty(0)
        return Null(np.array(ordinary), runs.sum(axis=1), shares, direction)


def run_sums(cells: np.ndarray, span: int) -> np.ndarray:
    """Counts of every run of ``span`` successive windows: [windows, cells] to [windows - span + 1, cells]."""
    if len(cells) < span:
        return np.empty((0, cells.shape[1]), np.int64)
    summed = np.cumsum(cells, axis=0)
    summed[span:] -= summed[:-span].copy()
    return summed[span - 1 :]


def run_ends(rows: np.ndarray, window_rows: int) -> list[int]:
    """Where runs of successive windows end that each hold ``window_rows`` rows at least; [windows] rows of each window.

    What is left at the end is no run.
    """
    ends, held = [], 0
    for i, count in enumerate(rows):
        held += int(count)
        if held >= window_rows:
            ends.append(i + 1)
            held = 0
    return ends


def _rows(reference: ReferenceProfile) -> np.ndarray:
    return np.asarray(next(iter(reference.cells.values())).sum(axis=1))


def rejected(p_values: Mapping[str, float], alpha: float) -> int:
    """How many hypotheses Benjamini and Hochberg (1995) reject at false discovery rate ``alpha``."""
    ordered = np.sort(np.array(list(p_values.values())))
    passing = np.flatnonzero(ordered <= alpha * np.arange(1, ordered.size + 1) / max(1, ordered.size))
    return int(passing[-1]) + 1 if passing.size else 0


def _exceeds(centres: np.ndarray, sigma: np.ndarray, statistic: float) -> np.ndarray:
    """For each run, the probability that it would be at least as far with as few rows as the live run has."""
    exact = sigma == 0
    scaled = (centres - statistic) / np.where(exact, 1.0, sigma)
    return np.asarray(np.where(exact, centres >= statistic, ndtr(scaled)))


def _directions(reference: ReferenceProfile, watch: Sequence[Watch]) -> dict[str, Direction]:
    for each in watch:
        if each.column not in reference.bins:
            raise ProjectError(
                f"the drift policy watches {each.column!r}, which is not profiled",
                f"profiled are {', '.join(reference.bins)}",
            )
        if each.direction != "both" and each.column in reference.total.categories:
            raise ProjectError(f"the drift policy gives the category {each.column!r} a direction", "leave it 'both'")
    return {each.column: each.direction for each in watch}
