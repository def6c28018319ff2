"""Slices of the rows where a model is worse than elsewhere: those that the project names, and those found by search.

The search proposes on one set of rows and tests on another. On validation rows, all slices of one and of two conditions
are ranked by the evidence that their mean loss is above that of all other rows (Chung et al. 2019, "Slice Finder";
Sagadeeva & Boehm 2021, "SliceLine", whose joint counts this uses). Only a few proposals are tested on the held-out
rows: regardless of how many slices the search compared, the bound is corrected only for the proposals (Bonferroni), and
holds. See docs/decisions/0030.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from cluster.values import Check, Frozen
from trainers.evaluation import check_builders
from trainers.evaluation.binning import Binning
from trainers.evaluation.ratio_bounds import paired_lower_bound, unpaired_lower_bound

MAX_PAIRED_COLUMNS = 40
_MAX_OVERLAP = 0.5
_MAX_CANDIDATES = 60


class SlicePolicy(Frozen):
    """Which slices are measured, and how much worse they may be. A limit of None is no limit."""

    columns: tuple[str, ...] = ()
    """Columns of which every value is a slice."""
    search: bool = True
    """Whether to search all features for further slices."""
    depth: int = Field(default=2, ge=1, le=2)
    """Conditions of a slice found by search, at most."""
    proposals: int = Field(default=8, ge=1)
    """Slices that the search proposes, at most."""
    bins: int = Field(default=4, ge=2)
    """Quantile ranges of a number."""
    min_rows: int = Field(default=500, ge=30)
    """Rows that a slice needs."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """A slice fails a limit with confidence 1 - ``alpha``, for all slices together."""
    max_ratio: float | None = Field(default=None, ge=1)
    """Largest ratio of the slice's mean loss (log loss; squared error of a regression) to that of all other rows."""
    max_regression: float | None = Field(default=None, ge=1)
    """Largest ratio of the slice's mean loss to the champion's on the same rows."""


class Condition(NamedTuple):
    """A column's bins, and one of them."""

    binning: Binning
    code: int

    def __str__(self) -> str:
        return self.binning.labels[self.code]


Slice = tuple[Condition, ...]


class SliceResult(Frozen):
    """The loss of a slice of the held-out rows.

    ``ratio``: mean ``loss`` over that of all other rows, with its lower bound ``low`` (all slices together);
    ``regression`` and its bound: the same against the champion on the slice's own rows. ``column`` is empty for a slice
    found by search.
    """

    name: str
    column: str
    rows: int
    loss: float
    ratio: float
    low: float
    regression: float | None = None
    regression_low: float | None = None


def fit_binnings(policy: SlicePolicy, table: pa.Table, columns: Sequence[str]) -> dict[str, Binning]:
    """Bin columns by the rows of ``table``.

    Raises:
        ProjectError: A column does not exist, or is a date or a tensor.
    """
    return {name: Binning.fit(table, name, policy.bins, policy.min_rows) for name in columns}


def propose(
    policy: SlicePolicy, binnings: Mapping[str, Binning], table: pa.Table, losses: np.ndarray
) -> tuple[Slice, ...]:
    """Search for slices with a high loss.

    Args:
        policy: Limits of the search.
        binnings: Columns to search, with their bins.
        table: Rows [n].
        losses: Loss of each row [n].

    Returns:
        At most ``policy.proposals`` slices, those with the strongest evidence first, none mostly inside a better one.
    """
    codes = {name: binning.codes(table) for name, binning in binnings.items()}
    ranked = sorted(_candidates(policy, binnings, codes, losses), key=lambda candidate: -candidate[0])
    proposals: list[Slice] = []
    masks: list[np.ndarray] = []
    for _, candidate in ranked[:_MAX_CANDIDATES]:
        mask = _mask(candidate, codes)
        if all(_overlap(mask, other) < _MAX_OVERLAP for other in masks):
            proposals.append(candidate)
            masks.append(mask)
        if len(proposals) == policy.proposals:
            break
    return tuple(proposals)


def column_slices(binning: Binning) -> tuple[Slice, ...]:
    """Every bin of a column as a slice."""
    return tuple((Condition(binning, code),) for code in range(len(binning.labels)))


def measure(
    policy: SlicePolicy,
    slices: Sequence[Slice],
    table: pa.Table,
    losses: np.ndarray,
    champion: np.ndarray | None = None,
    column: str = "",
) -> tuple[SliceResult, ...]:
    """Measure slices on rows that did not propose them.

    Args:
        policy: Minimum size and confidence.
        slices: The slices.
        table: Rows [n].
        losses: Loss of each row [n].
        champion: The champion's loss of each row [n]; None without a champion.
        column: The declared column that the slices belong to; empty for slices found by search.

    Returns:
        The slices with at least ``min_rows`` rows, the worst first.
    """
    codes = {c.binning.column: c.binning.codes(table) for c in itertools.chain.from_iterable(slices)}
    masks = [(slice_, _mask(slice_, codes)) for slice_ in slices]
    large = [(s, mask) for s, mask in masks if policy.min_rows <= mask.sum() <= len(losses) - policy.min_rows]
    alpha = policy.alpha / max(1, len(large))
    results = [_measure_slice(s, mask, losses, champion, alpha, column) for s, mask in large]
    return tuple(sorted(results, key=lambda result: -result.ratio))


def check(policy: SlicePolicy, results: Sequence[SliceResult]) -> Iterator[Check]:
    """Check the worst slice of each declared column and of the search against the limits.

    A declared column without a slice that is large enough fails, because its limit cannot be verified.
    """
    for column in sorted(set(policy.columns) - {result.column for result in results}):
        what = (
            f"no slice of {column} has min_rows={policy.min_rows} held-out rows with as many rows outside it: "
            "loss relative to other rows"
        )
        yield from check_builders.at_most(f"slices of {column}", float("nan"), policy.max_ratio, what)
    for column in sorted({result.column for result in results}):
        slices = [result for result in results if result.column == column]
        name = f"slices of {column}" if column else "slices found by search"
        worst = max(slices, key=lambda result: _nan_as_worst(result.low))
        what = f"lower bound of the loss ratio of {worst.name} ({worst.rows:,} rows, ratio {worst.ratio:.3g})"
        yield from check_builders.at_most(name, worst.low, policy.max_ratio, what)
        if compared := [result for result in slices if result.regression_low is not None]:
            worst = max(compared, key=lambda result: _nan_as_worst(result.regression_low))
            what = (
                f"lower bound of the loss ratio to the champion of {worst.name} "
                f"({worst.rows:,} rows, ratio {worst.regression:.3g})"
            )
            yield from check_builders.at_most(
                f"{name} against the champion", worst.regression_low or 0.0, policy.max_regression, what
            )


def _nan_as_worst(low: float | None) -> float:
    return np.inf if low is None or np.isnan(low) else low


def _candidates(
    policy: SlicePolicy, binnings: Mapping[str, Binning], codes: Mapping[str, np.ndarray], losses: np.ndarray
) -> Iterator[tuple[float, Slice]]:
    """Slices with positive t statistics."""
    total = _Sums(np.array(float(len(losses))), losses.sum(), (losses**2).sum())
    best: dict[str, float] = {}
    for name, binning in binnings.items():
        t = _statistics(policy, codes[name], len(binning.labels), losses, total)
        best[name] = float(t.max(initial=0.0))
        yield from ((float(t[code]), (Condition(binning, int(code)),)) for code in np.flatnonzero(t > 0))
    if policy.depth < 2:
        return
    pairable = sorted(best, key=lambda name: -best[name])[:MAX_PAIRED_COLUMNS]
    for column, other in itertools.combinations(pairable, 2):
        width = len(binnings[other].labels)
        joint = np.where((codes[column] >= 0) & (codes[other] >= 0), codes[column] * width + codes[other], -1)
        t = _statistics(policy, joint, len(binnings[column].labels) * width, losses, total)
        for code in np.flatnonzero(t > 0):
            first, second = divmod(int(code), width)
            yield float(t[code]), (Condition(binnings[column], first), Condition(binnings[other], second))


class _Sums(NamedTuple):
    rows: np.ndarray
    sum: np.ndarray
    squares: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self.sum / self.rows)

    @property
    def squared_error(self) -> np.ndarray:
        """Variance of the mean."""
        return np.asarray(np.maximum(self.squares / self.rows - self.mean**2, 0.0) / self.rows)


def _statistics(policy: SlicePolicy, codes: np.ndarray, values: int, losses: np.ndarray, total: _Sums) -> np.ndarray:
    """Welch's t of each value's mean loss against that of all other rows; 0 for those with too few rows."""
    # Code -1 goes to a bin at the front.
    counts = [np.bincount(codes + 1, weights, minlength=values + 1)[1:] for weights in (None, losses, losses**2)]
    inside = _Sums(*(np.asarray(part, np.float64) for part in counts))
    outside = _Sums(*(whole - part for whole, part in zip(total, inside, strict=True)))
    large = (inside.rows >= policy.min_rows) & (outside.rows >= policy.min_rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (inside.mean - outside.mean) / np.sqrt(inside.squared_error + outside.squared_error)
    return np.where(large & np.isfinite(t), t, 0.0)


def _mask(slice_: Slice, codes: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.asarray(np.logical_and.reduce([codes[c.binning.column] == c.code for c in slice_]))


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """The share of the smaller slice that is inside the other."""
    return float((one & other).sum() / max(1, min(one.sum(), other.sum())))


def _measure_slice(
    slice_: Slice, mask: np.ndarray, losses: np.ndarray, champion: np.ndarray | None, alpha: float, column: str
) -> SliceResult:
    inside, outside = losses[mask], losses[~mask]
    elsewhere = float(outside.mean())
    result = SliceResult(
        name=" and ".join(map(str, slice_)),
        column=column,
        rows=len(inside),
        loss=float(inside.mean()),
        ratio=float(inside.mean()) / elsewhere if elsewhere else float("nan"),
        low=unpaired_lower_bound(inside, outside, alpha),
    )
    if champion is None:
        return result
    before = champion[mask]
    ratio = result.loss / float(before.mean()) if before.any() else float("nan")
    return result.model_copy(update={"regression": ratio, "regression_low": paired_lower_bound(inside, before, alpha)})
