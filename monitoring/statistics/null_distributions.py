"""Null distributions: how far a statistic goes by chance, for these n, m and bins. Pure.

counts      missing, invalid and new cells: hypergeometric, exact (Fisher, "Statistical methods for research
            workers", 1934), twice the smaller tail where both ways count
statistics  rows permuted between reference and live. Of the cells that is a multivariate hypergeometric draw, exact at
            every n and m, empty cells and ties included; p = (1 + draws at least as far) / (1 + draws)
the tail    below 10 draws beyond it: an exponential from the upper tenth (Knijnenburg et al., "Fewer permutations,
            more accurate P-values", Bioinformatics 25(12), 2009). Tails of these distances decay faster, which errs on
            the quiet side
sketches    a sketch that dropped rows has errors of its own, which at a million rows exceed those of sampling. The draws
            get errors of the same size: half the variance shared by all edges, half of each, as the error at two
            distant ranks has correlation 1/2 when compaction keeps odd or even items at random (KLL, FOCS 2016)

All statistics of a column are taken together: the smallest of their p-values is held against its own null
distribution in the same draws (Westfall and Young, "Resampling-based multiple testing", 1993), which spends less than
Bonferroni would, since the statistics resemble one another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from features.profiles.reference_profile import TRAILING_CELLS
from monitoring.statistics.batched_statistics import Battery

FIRST_DRAWS, DRAWS = 199, 1999
GOING_ON = 0.2
"""A p-value above it after FIRST_DRAWS is final; at or below, it comes from DRAWS new ones.

Below any level it is at most as often as the level says: the first draws can only add what lies above GOING_ON."""
TAIL_SHARE = 0.1
LEAST_BEYOND = 10
_MARGINALS_LIMIT = 10**9
"""numpy's limit for hypergeometric draws; a sample of more rows is drawn with replacement."""
_SMALLEST = 1e-300


class Tail:
    """P-values of statistics against draws [draws, statistics] from their null distribution."""

    def __init__(self, draws: np.ndarray, least_scale: float = 0.0) -> None:
        self._sorted = np.sort(draws, axis=0)
        self._count = len(draws)
        beyond = max(1, int(np.ceil(TAIL_SHARE * self._count)))
        self._from = self._sorted[-beyond]
        excess = (self._sorted[-beyond:] - self._from).mean(axis=0)
        self._scale = np.maximum(excess, max(least_scale, 1e-12))

    def p_values(self, found: np.ndarray) -> np.ndarray:
        """For statistics [rows, statistics]; larger is farther. Never 0."""
        columns = range(self._sorted.shape[1])
        # A draw that equals what was found up to rounding is as far.
        near = found - 1e-9 * np.abs(found) - 1e-12
        as_far = [self._count - np.searchsorted(self._sorted[:, j], near[:, j]) for j in columns]
        ranked = (1 + np.stack(as_far, axis=1)) / (1 + self._count)
        start = (1 + (self._sorted >= self._from).sum(axis=0)) / (1 + self._count)
        fitted = start * np.exp(-np.maximum(found - self._from, 0.0) / self._scale)
        sparse = (ranked * (1 + self._count) <= LEAST_BEYOND) & (found > self._from)
        return np.maximum(np.where(sparse, np.minimum(fitted, ranked), ranked), _SMALLEST)


@dataclass(frozen=True)
class Chance:
    """What chance says of one column: the p-value of all statistics together, and of each by name."""

    p_value: float
    by_statistic: dict[str, float]

    @property
    def strongest(self) -> str:
        """The statistic that says most; "" when there was nothing to test."""
        return min(self.by_statistic, key=self.by_statistic.__getitem__, default="")


def by_sampling(
    battery: Battery,
    reference: np.ndarray,
    live: np.ndarray,
    rng: np.random.Generator,
    errors: tuple[float, float] = (0.0, 0.0),
) -> Chance:
    """Could ``live`` [cells] be rows of the same source as ``reference`` [cells]?

    ``errors`` are the standard deviations of a rank in the reference's and in the live sketch; 0 when it is exact.
    """
    if not reference.sum() or not live.sum():
        return Chance(1.0, {})
    first = _permuted(battery, reference, live, FIRST_DRAWS, rng, errors)
    return first if first.p_value > GOING_ON else _permuted(battery, reference, live, DRAWS, rng, errors)


def by_variation(
    battery: Battery, reference: np.ndarray, runs: np.ndarray, live: np.ndarray, rng: np.random.Generator
) -> Chance:
    """Is ``live`` farther from ``reference`` than the reference's own ``runs`` [runs, cells] are from the rest of it?

    A run of more rows than ``live`` has is thinned to as many, so that both carry the same noise.
    """
    rows = int(live.sum())
    if not len(runs) or not rows:
        return Chance(1.0, {})
    thinned = np.stack([drawn(run, rows, 1, rng)[0] if run.sum() > rows else run for run in runs])
    return _together(battery, (reference[None], live[None]), (reference - runs, thinned), exact=False)


def drawn(cells: np.ndarray, rows: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` samples of ``rows`` rows out of ``cells``, [count, cells]."""
    if cells.sum() < _MARGINALS_LIMIT:
        return np.asarray(rng.multivariate_hypergeometric(cells, rows, size=count, method="marginals"))
    return np.asarray(rng.multinomial(rows, cells / cells.sum(), size=count))


def _permuted(
    battery: Battery,
    reference: np.ndarray,
    live: np.ndarray,
    count: int,
    rng: np.random.Generator,
    errors: tuple[float, float],
) -> Chance:
    both = (reference + live).astype(np.int64)
    taken = drawn(both, int(live.sum()), count, rng)
    rest = both - taken if both.sum() < _MARGINALS_LIMIT else drawn(both, int(reference.sum()), count, rng)
    if not battery.categorical:
        rest, taken = _blurred(rest, errors[0], rng), _blurred(taken, errors[1], rng)
    return _together(battery, (reference[None], live[None]), (rest, taken), exact=True)


def _blurred(cells: np.ndarray, error: float, rng: np.random.Generator) -> np.ndarray:
    """Cells as a sketch with rank errors of standard deviation ``error`` would have counted them."""
    if not error:
        return cells
    values = cells[:, :-TRAILING_CELLS]
    count, edges = values.sum(axis=1, keepdims=True), values.shape[1] - 1
    shared, own = rng.normal(size=(len(cells), 1)), rng.normal(size=(len(cells), edges))
    ranks = values.cumsum(axis=1)[:, :-1] + error * count * (shared + own) / np.sqrt(2.0)
    ranks = np.maximum.accumulate(np.clip(ranks, 0, count), axis=1)
    blurred = np.diff(ranks, axis=1, prepend=0.0, append=count)
    return np.hstack([blurred, cells[:, -TRAILING_CELLS:]])


def _together(
    battery: Battery,
    found: tuple[np.ndarray, np.ndarray],
    null: tuple[np.ndarray, np.ndarray],
    exact: bool,
) -> Chance:
    """``found`` against ``null``, reference and live of each. Counts are exact where rows were permuted."""
    names = (*battery.names, *_counted(battery))
    if exact:
        tail = Tail(battery.measure(*null))
        single, drawn_p = (
            np.hstack([tail.p_values(battery.measure(*pair)), _count_p_values(battery, *pair)])
            for pair in (found, null)
        )
    else:
        tail = Tail(np.hstack([battery.measure(*null), _changes(battery, *null)]))
        single, drawn_p = (
            tail.p_values(np.hstack([battery.measure(*pair), _changes(battery, *pair)])) for pair in (found, null)
        )
    # On the scale of -log p the tail of the strongest decays by e per unit, or slower while statistics still differ.
    strongest = Tail(-np.log(drawn_p.min(axis=1, keepdims=True)), least_scale=1.0)
    p_value = strongest.p_values(-np.log(single.min(axis=1, keepdims=True)))[0, 0]
    return Chance(float(p_value), dict(zip(names, single[0].tolist(), strict=True)))


def _counted(battery: Battery) -> tuple[str, ...]:
    return ("nulls", "invalid", "new") if battery.categorical else ("nulls", "invalid")


def _counts(battery: Battery, cells: np.ndarray) -> np.ndarray:
    last = -TRAILING_CELLS
    picked = [last, last + 1, last - 1] if battery.categorical else [last, last + 1]
    return cells[:, picked]


def _changes(battery: Battery, reference: np.ndarray, live: np.ndarray) -> np.ndarray:
    """Changes of shares, absolute for missing and invalid cells."""
    n, m = (np.maximum(cells.sum(axis=1, keepdims=True), 1) for cells in (reference, live))
    change = _counts(battery, live) / m - _counts(battery, reference) / n
    change[:, :2] = np.abs(change[:, :2])
    return np.asarray(np.maximum(change, 0.0))


def _count_p_values(battery: Battery, reference: np.ndarray, live: np.ndarray) -> np.ndarray:
    n, m = (np.rint(cells.sum(axis=1, keepdims=True)) for cells in (reference, live))
    hits, before = _counts(battery, live), _counts(battery, reference)
    null = stats.hypergeom(n + m, hits + before, m)
    upper, lower = null.sf(hits - 1), null.cdf(hits)
    both_ways = np.minimum(1.0, 2.0 * np.minimum(upper, lower))
    both_ways[:, 2:] = upper[:, 2:]
    return np.asarray(np.maximum(both_ways, _SMALLEST))
