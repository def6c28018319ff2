"""Null distributions: how far a statistic goes without drift, by sampling and by ordinary variation. Pure.

Two nulls, both of which must be rejected. Sampling: live rows are drawn from the reference. Ordinary variation: days
differ from the whole, and neighboring days resemble each other, far beyond sampling; so a live run of windows is
compared with the reference's own runs, each against the rest of the reference (leave one out).

**The distance that raises alarms** (DistanceNull). By the Dvoretzky-Kiefer-Wolfowitz-Massart inequality in its
two-sample form, and for total variation by McDiarmid's (1989, theorem 3.1),

    P(distance >= s) <= c exp(-2 (s - b)^2 n m / (n + m))

c = 1 one-sided, 2 two-sided; b = 0, for total variation the bound on its mean, sum sqrt(p (1 - p) (1/n + 1/m)) / 2.
Among its runs p = (1 + runs at least as far) / (1 + runs), as for conformal p-values (Bates et al., "Testing for
outliers with conformal p-values", Annals of Statistics 2023). A live run with fewer rows than those gets their noise
added, normal with variance (1/n - 1/n_run) / 4. Beyond the farthest run ``tail_p_value`` continues, as levels of alarms
are smaller than 1 / (1 + runs).
The assumption: a run of live windows is exchangeable with the runs of the reference. It is a choice. What the reference
contains (a season, a storm) is ordinary; what it lacks (a season) is drift.

**All statistics of a column** (permutation_test, reference_runs_test):

    counts      missing, invalid and new cells: hypergeometric, exact (Fisher, "Statistical methods for research
                workers", 1934), twice the smaller tail where both directions count
    statistics  rows permuted between reference and live. For cells this is a multivariate hypergeometric draw, exact at
                every n and m, empty cells and ties included; p = (1 + draws at least as far) / (1 + draws)
    the tail    below 10 draws beyond it: ``tail_p_value`` from the upper tenth, as Knijnenburg et al., "Fewer
                permutations, more accurate P-values", Bioinformatics 25(12), 2009, do with a Pareto distribution
    sketches    a sketch that dropped rows has errors of its own, which exceed those of sampling at a million rows. The
                draws get errors of the same size: half the variance shared by all edges, half of each, as the error at
                two distant ranks has correlation 1/2 when compaction keeps odd or even items at random (KLL, FOCS 2016)

The smallest p-value of a column's statistics is compared with its own null distribution in the same draws (Westfall and
Young, "Resampling-based multiple testing", 1993), which costs less power than Bonferroni, since the statistics are
correlated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr

from features.profiles.reference_profile import TRAILING_CELLS
from monitoring.statistics.drift_statistics import ColumnStatistics, Direction

MIN_RUNS = 12
"""With fewer runs in the reference its ordinary variation is unknown, and only sampling is tested."""
MIN_TAIL_SCALE = 0.005
"""Smallest mean excess of the tail of ordinary runs, in units of a distance or an AUC."""
FIRST_DRAWS, DRAWS = 199, 1999
SCREENING_LEVEL = 0.2
"""A p-value above it after FIRST_DRAWS is final; at or below, it comes from DRAWS new ones.

Below any level it is at most as often as the level says: the first draws can only add values above SCREENING_LEVEL."""
TAIL_SHARE = 0.1
MIN_TAIL_POINTS = 10
"""The tail is fitted to the farthest tenth, but to as many as these, if that is not more than half."""
MIN_EXCEEDANCES = 10
_BISECTIONS = 40
_MARGINALS_LIMIT = 10**9
"""numpy's limit for hypergeometric draws; a sample of more rows is drawn with replacement."""
_SMALLEST = 1e-300
_COUNTED_CELLS = {"nulls": -TRAILING_CELLS, "invalid": 1 - TRAILING_CELLS, "new": -1 - TRAILING_CELLS}


@dataclass(frozen=True)
class Significance:
    """Result of testing one column.

    Attributes:
        p_value: P-value of all statistics together.
        by_statistic: P-value of each statistic, by name; empty when there was nothing to test.
    """

    p_value: float
    by_statistic: dict[str, float]

    @property
    def strongest(self) -> str:
        """The statistic with the smallest p-value; "" when there was nothing to test."""
        return min(self.by_statistic, key=self.by_statistic.__getitem__, default="")


class DistanceNull:
    """Null distribution of one column's alarm distance."""

    def __init__(
        self, run_distances: np.ndarray, rows: np.ndarray, shares: np.ndarray, direction: Direction, overlap: int = 1
    ) -> None:
        """Take the distances of the reference's own runs.

        Args:
            run_distances: Distance of each of the reference's own runs from the rest of it, [runs].
            rows: Rows of each run, [runs].
            shares: Reference shares of a category's values; empty for a number.
            direction: Which changes count.
            overlap: Successive runs that share windows.
        """
        self.run_distances = run_distances
        self._overlap = overlap
        self.rows = rows
        self.direction = direction
        self._spread = float(np.sqrt(shares * (1 - shares)).sum() / 2) if shares.size else 0.0
        self._sides = 2 if direction == "both" and not shares.size else 1

    def p_value(self, statistic: float, rows: int, reference_rows: int) -> float:
        """Probability of a distance of at least ``statistic`` by sampling or by ordinary variation, the larger."""
        if not rows or not reference_rows:
            return 1.0
        return max(self._by_sampling(statistic, rows, reference_rows), self._by_variation(statistic, rows))

    def threshold(self, alpha: float, rows: int, reference_rows: int) -> float:
        """Smallest distance whose p-value is at most ``alpha``; 1 when there is none."""
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
        return min(1.0, self._sides * math.exp(-2 * excess * excess / noise))

    def _by_variation(self, statistic: float, rows: int) -> float:
        if self.run_distances.size < MIN_RUNS:
            return 0.0
        thinner = np.maximum(0.0, 1 / rows - 1 / self.rows)
        centers = self.run_distances + self._spread * (math.sqrt(1 / rows) - np.sqrt(1 / rows - thinner))
        sigma = np.sqrt(thinner) / 2
        runs = self.run_distances.size
        own = 1.0
        if statistic > float(centers.max()):
            start, scale, points = fit_tail(centers)
            scale = max(MIN_TAIL_SCALE, scale) + float(sigma.max())
            # Runs that share windows tell as much about the tail as those of them that do not.
            tail = tail_p_value((statistic - start) / scale, points, runs, points / self._overlap)
            own = min(1.0, tail * (runs + 1))
        return min(1.0, (own + float(_exceeds(centers, sigma, statistic).sum())) / (runs + 1))


class EmpiricalNull:
    """P-values of statistics against draws from their null distribution."""

    def __init__(self, draws: np.ndarray, least_scale: float = 0.0) -> None:
        """Fit the tail.

        Args:
            draws: Statistics drawn from the null distribution, [draws, statistics].
            least_scale: Smallest scale of the exponential tail.
        """
        self._sorted_draws = np.sort(draws, axis=0)
        self._count = len(draws)
        self._from, scale, self._points = fit_tail(self._sorted_draws)
        self._scale = np.maximum(scale, max(least_scale, 1e-12))

    def p_values(self, observed: np.ndarray) -> np.ndarray:
        """P-values of statistics [rows, statistics]; larger statistics are farther. Never 0."""
        columns = range(self._sorted_draws.shape[1])
        # A draw that equals the observed value up to rounding counts as equally far.
        near = observed - 1e-9 * np.abs(observed) - 1e-12
        as_far = [self._count - np.searchsorted(self._sorted_draws[:, j], near[:, j]) for j in columns]
        ranked = (1 + np.stack(as_far, axis=1)) / (1 + self._count)
        excess = np.maximum(observed - self._from, 0.0) / self._scale
        fitted = tail_p_value(excess, self._points, self._count)
        sparse = (ranked * (1 + self._count) <= MIN_EXCEEDANCES) & (observed > self._from)
        return np.maximum(np.where(sparse, np.minimum(fitted, ranked), ranked), _SMALLEST)


def fit_tail(draws: np.ndarray) -> tuple[Any, Any, int]:
    """Where the tail of draws [draws] or [draws, statistics] starts, its mean excess, and how many draws are in it."""
    count = len(draws)
    points = max(1, min(max(math.ceil(TAIL_SHARE * count), MIN_TAIL_POINTS), count // 2))
    ordered = np.sort(draws, axis=0)
    start = ordered[max(0, count - points - 1)]
    return start, (ordered[-points:] - start).mean(axis=0), points


def tail_p_value(excess: Any, points: int, draws: int, freedom: float | None = None) -> Any:
    """Probability that a new draw exceeds the start of the tail by ``excess``.

    A new draw is beyond the (points + 1)-th largest of ``draws`` with probability (points + 1) / (draws + 1). Excesses
    of an exponential tail are independent (Renyi, "On the theory of order statistics", 1953), so that the ratio of a
    new one to the mean of the others has the F(2, 2 points) distribution: P(ratio > f) = (1 + f / points)^(-points). So
    the level holds at any number of draws, however small it is, where a fitted exponential alone is too liberal: by a
    factor of 24 with 20 draws at a level of 0.001. For tails that decay faster (an increasing hazard rate: normal,
    uniform) it errs on the quiet side; heavier tails than an exponential are not covered.

    Args:
        excess: Excess over the start of the tail, divided by the mean excess.
        points: Draws in the tail.
        draws: All draws.
        freedom: Independent draws in the tail; all of them unless it says otherwise.
    """
    freedom = max(1.0, points if freedom is None else freedom)
    return (points + 1) / (draws + 1) * (1.0 + excess / freedom) ** -freedom


def permutation_test(
    column: ColumnStatistics,
    reference: np.ndarray,
    live: np.ndarray,
    rng: np.random.Generator,
    errors: tuple[float, float] = (0.0, 0.0),
) -> Significance:
    """Test whether the live rows come from the source of the reference rows.

    Args:
        column: The statistics to test.
        reference: Reference counts, [cells].
        live: Live counts, [cells].
        rng: Source of the draws.
        errors: Standard deviations of a rank in the reference's and in the live sketch; 0 when it is exact.
    """
    if not reference.sum() or not live.sum():
        return Significance(1.0, {})
    both = (reference + live).astype(np.int64)
    for count in (FIRST_DRAWS, DRAWS):
        sample = draw_rows(both, int(live.sum()), count, rng)
        rest = both - sample if both.sum() < _MARGINALS_LIMIT else draw_rows(both, int(reference.sum()), count, rng)
        if not column.categorical:
            rest, sample = _add_sketch_error(rest, errors[0], rng), _add_sketch_error(sample, errors[1], rng)
        result = _combine(column, (reference[None], live[None]), (rest, sample), exact=True)
        if result.p_value > SCREENING_LEVEL:
            break
    return result


def reference_runs_test(
    column: ColumnStatistics, reference: np.ndarray, runs: np.ndarray, live: np.ndarray, rng: np.random.Generator
) -> Significance:
    """Test whether the live run is farther from the reference than the reference's own runs are from the rest of it.

    A run with more rows than ``live`` is thinned to as many, so that both carry the same noise.

    Args:
        column: The statistics to test.
        reference: Reference counts, [cells].
        runs: Counts of the reference's own runs, [runs, cells].
        live: Live counts, [cells].
        rng: Source of the draws.
    """
    rows = int(live.sum())
    if not len(runs) or not rows:
        return Significance(1.0, {})
    subsampled_runs = np.stack([draw_rows(run, rows, 1, rng)[0] if run.sum() > rows else run for run in runs])
    return _combine(column, (reference[None], live[None]), (reference - runs, subsampled_runs), exact=False)


def draw_rows(cells: np.ndarray, rows: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw samples of rows; without replacement, except from more rows than NumPy supports for that.

    Args:
        cells: Number of rows in each cell, [cells].
        rows: Rows of each sample.
        count: Number of samples.
        rng: Source of randomness.

    Returns:
        Rows of each sample in each cell, [count, cells].
    """
    if cells.sum() < _MARGINALS_LIMIT:
        return np.asarray(rng.multivariate_hypergeometric(cells, rows, size=count, method="marginals"))
    return np.asarray(rng.multinomial(rows, cells / cells.sum(), size=count))


def _add_sketch_error(cells: np.ndarray, error: float, rng: np.random.Generator) -> np.ndarray:
    """Cells as a sketch with rank errors of standard deviation ``error`` would have counted them."""
    if not error:
        return cells
    values = cells[:, :-TRAILING_CELLS]
    count, edges = values.sum(axis=1, keepdims=True), values.shape[1] - 1
    shared, own = rng.normal(size=(len(cells), 1)), rng.normal(size=(len(cells), edges))
    ranks = values.cumsum(axis=1)[:, :-1] + error * count * (shared + own) / np.sqrt(2.0)
    ranks = np.maximum.accumulate(np.clip(ranks, 0, count), axis=1)
    return np.hstack([np.diff(ranks, axis=1, prepend=0.0, append=count), cells[:, -TRAILING_CELLS:]])


def _combine(
    column: ColumnStatistics, observed: tuple[np.ndarray, np.ndarray], null: tuple[np.ndarray, np.ndarray], exact: bool
) -> Significance:
    """``observed`` against ``null``, reference and live of each. Counts are exact where rows were permuted."""
    names = (*column.names, *_count_names(column))
    if exact:
        tail = EmpiricalNull(column.measure(*null))
        single, drawn = (
            np.hstack([tail.p_values(column.measure(*pair)), _count_p_values(column, *pair)])
            for pair in (observed, null)
        )
    else:
        tail = EmpiricalNull(np.hstack([column.measure(*null), _changes(column, *null)]))
        single, drawn = (
            tail.p_values(np.hstack([column.measure(*pair), _changes(column, *pair)])) for pair in (observed, null)
        )
    # On the scale of -log p the tail of the strongest decays by e per unit, or slower while statistics still differ.
    strongest = EmpiricalNull(-np.log(drawn.min(axis=1, keepdims=True)), least_scale=1.0)
    p_value = strongest.p_values(-np.log(single.min(axis=1, keepdims=True)))[0, 0]
    return Significance(float(p_value), dict(zip(names, single[0].tolist(), strict=True)))


def _count_names(column: ColumnStatistics) -> tuple[str, ...]:
    return tuple(_COUNTED_CELLS) if column.categorical else ("nulls", "invalid")


def _counts(column: ColumnStatistics, cells: np.ndarray) -> np.ndarray:
    return cells[:, [_COUNTED_CELLS[name] for name in _count_names(column)]]


def _changes(column: ColumnStatistics, reference: np.ndarray, live: np.ndarray) -> np.ndarray:
    """Changes of shares, absolute for missing and invalid cells."""
    n, m = (np.maximum(cells.sum(axis=1, keepdims=True), 1) for cells in (reference, live))
    change = _counts(column, live) / m - _counts(column, reference) / n
    change[:, :2] = np.abs(change[:, :2])
    return np.asarray(np.maximum(change, 0.0))


def _count_p_values(column: ColumnStatistics, reference: np.ndarray, live: np.ndarray) -> np.ndarray:
    # scipy.stats takes more than a second to import, and whatever loads a project's drift policy loads this module.
    from scipy import stats

    n, m = (np.rint(cells.sum(axis=1, keepdims=True)) for cells in (reference, live))
    hits, before = _counts(column, live), _counts(column, reference)
    null = stats.hypergeom(n + m, hits + before, m)
    upper, lower = null.sf(hits - 1), null.cdf(hits)
    both_ways = np.minimum(1.0, 2.0 * np.minimum(upper, lower))
    both_ways[:, 2:] = upper[:, 2:]
    return np.asarray(np.maximum(both_ways, _SMALLEST))


def _exceeds(centers: np.ndarray, sigma: np.ndarray, statistic: float) -> np.ndarray:
    """For each run, the probability that it would be at least as far with as few rows as the live run has."""
    exact = sigma == 0
    scaled = (centers - statistic) / np.where(exact, 1.0, sigma)
    return np.asarray(np.where(exact, centers >= statistic, ndtr(scaled)))
