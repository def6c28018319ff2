"""Where a model is worse than elsewhere: slices that the project names, and slices found by search.

The search proposes on one set of rows and is judged on another. On validation rows all slices of one condition, and of two,
are ranked by how surely their mean loss is above that of all other rows (Chung et al. 2019, "Slice Finder"; Sagadeeva & Boehm 2021,
"SliceLine", whose joint counts this uses). A few proposals go to the held-out rows, and only they are tested there: however
many slices were looked at, the bound is corrected for the proposals alone (Bonferroni), and holds. Why so: docs/decisions/0030.
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
from trainers.evaluation.binning import Cut
from trainers.evaluation.ratio_bounds import paired, unpaired

MAX_PAIRED_COLUMNS = 40
_OVERLAP = 0.5
_LOOKED_AT = 60


class SlicePolicy(Frozen):
    """Which slices are looked at, and how much worse they may be.

    ``columns``: every value of these is a slice, a number is cut into ``bins`` ranges. ``search`` looks for ``proposals`` more among all
    features, of ``depth`` conditions at most. A slice has at least ``min_rows`` rows.
    ``max_ratio``: its mean loss (log loss; of a regression the squared error) may be this many times that of all other rows;
    ``max_regression``: this many times the champion's on the same rows. A slice fails when it is beyond with confidence
    1 - ``alpha`` for all of them together. None is no limit.
    """

    columns: tuple[str, ...] = ()
    search: bool = True
    depth: int = Field(default=2, ge=1, le=2)
    proposals: int = Field(default=8, ge=1)
    bins: int = Field(default=4, ge=2)
    min_rows: int = Field(default=500, ge=30)
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    max_ratio: float | None = Field(default=None, ge=1)
    max_regression: float | None = Field(default=None, ge=1)


class Condition(NamedTuple):
    """A column's cut, and which of its values."""

    cut: Cut
    code: int

    def __str__(self) -> str:
        return self.cut.labels[self.code]


Slice = tuple[Condition, ...]


class Measured(Frozen):
    """A slice on the held-out rows.

    ``ratio``: its mean ``loss`` over that of all other rows, and ``low``, which the true one is above for sure (all slices
    together); the same against the champion on the slice's own rows. ``column`` is empty for a slice that was found by search.
    """

    name: str
    column: str
    rows: int
    loss: float
    ratio: float
    low: float
    regression: float | None = None
    regression_low: float | None = None


def cuts_of(policy: SlicePolicy, table: pa.Table, columns: Sequence[str]) -> dict[str, Cut]:
    """Raises ProjectError for a column that is not there, or is a date or a tensor."""
    return {name: Cut.of(table, name, policy.bins, policy.min_rows) for name in columns}


def propose(policy: SlicePolicy, cuts: Mapping[str, Cut], table: pa.Table, losses: np.ndarray) -> tuple[Slice, ...]:
    """At most ``policy.proposals`` slices whose ``losses`` [n] stand out most surely, none mostly inside a better one."""
    codes = {name: cut.codes(table) for name, cut in cuts.items()}
    ranked = sorted(_candidates(policy, cuts, codes, losses), key=lambda found: -found[0])
    chosen: list[Slice] = []
    masks: list[np.ndarray] = []
    for _, candidate in ranked[:_LOOKED_AT]:
        mask = _mask(candidate, codes)
        if all(_overlap(mask, other) < _OVERLAP for other in masks):
            chosen.append(candidate)
            masks.append(mask)
        if len(chosen) == policy.proposals:
            break
    return tuple(chosen)


def of_column(cut: Cut) -> tuple[Slice, ...]:
    """Every value of a column."""
    return tuple((Condition(cut, code),) for code in range(len(cut.labels)))


def measure(
    policy: SlicePolicy,
    slices: Sequence[Slice],
    table: pa.Table,
    losses: np.ndarray,
    champion: np.ndarray | None = None,
    column: str = "",
) -> tuple[Measured, ...]:
    """The slices of at least ``min_rows`` rows, the worst first. ``champion`` are its losses on the same rows."""
    codes = {c.cut.column: c.cut.codes(table) for c in itertools.chain.from_iterable(slices)}
    masks = [(slice_, _mask(slice_, codes)) for slice_ in slices]
    large = [(s, mask) for s, mask in masks if policy.min_rows <= mask.sum() <= len(losses) - policy.min_rows]
    alpha = policy.alpha / max(1, len(large))
    found = [_measured(s, mask, losses, champion, alpha, column) for s, mask in large]
    return tuple(sorted(found, key=lambda measured: -measured.ratio))


def judge(policy: SlicePolicy, found: Sequence[Measured]) -> Iterator[Check]:
    """A check for each declared column and limit, and one for what the search has found: on the worst slice of each.

    A declared column without a slice that is large enough fails: nobody knows whether the limit holds.
    """
    for column in sorted(set(policy.columns) - {m.column for m in found}):
        what = f"no slice of {column} has min_rows={policy.min_rows} held-out rows, and as many others: loss over that of other rows"
        yield from check_builders.if_limited(f"slices of {column}", float("nan"), policy.max_ratio, what)
    for column, group in itertools.groupby(sorted(found, key=lambda m: m.column), key=lambda m: m.column):
        slices = list(group)
        name = f"slices of {column}" if column else "slices found by search"
        worst = max(slices, key=lambda m: _surely(m.low))
        what = f"{worst.name} ({worst.rows:,} rows): loss over that of other rows {worst.ratio:.3g}, surely above"
        yield from check_builders.if_limited(name, worst.low, policy.max_ratio, what)
        compared = [m for m in slices if m.regression_low is not None]
        if compared:
            worst = max(compared, key=lambda m: _surely(m.regression_low))
            what = f"{worst.name} ({worst.rows:,} rows): loss over the champion's {worst.regression:.3g}, surely above"
            yield from check_builders.if_limited(
                f"{name} against the champion", worst.regression_low or 0.0, policy.max_regression, what
            )


def _surely(low: float | None) -> float:
    """What is not a number is the worst that can be."""
    return np.inf if low is None or np.isnan(low) else low


def _candidates(
    policy: SlicePolicy, cuts: Mapping[str, Cut], codes: Mapping[str, np.ndarray], losses: np.ndarray
) -> Iterator[tuple[float, Slice]]:
    """Slices with their t statistics, as far as these are positive."""
    total = _Sums(np.array(float(len(losses))), losses.sum(), (losses**2).sum())
    best: dict[str, float] = {}
    for name, cut in cuts.items():
        found = _statistics(policy, codes[name], len(cut.labels), losses, total)
        best[name] = float(found.max(initial=0.0))
        yield from ((float(found[code]), (Condition(cut, int(code)),)) for code in np.flatnonzero(found > 0))
    if policy.depth < 2:
        return
    paired_columns = sorted(best, key=lambda name: -best[name])[:MAX_PAIRED_COLUMNS]
    for one, other in itertools.combinations(paired_columns, 2):
        width = len(cuts[other].labels)
        inside = (codes[one] >= 0) & (codes[other] >= 0)
        joint = np.where(inside, codes[one] * width + codes[other], -1)
        found = _statistics(policy, joint, len(cuts[one].labels) * width, losses, total)
        for code in np.flatnonzero(found > 0):
            first, second = divmod(int(code), width)
            yield float(found[code]), (Condition(cuts[one], first), Condition(cuts[other], second))


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
        variance = np.maximum(self.squares / self.rows - self.mean**2, 0.0)
        return np.asarray(variance / self.rows)


def _statistics(policy: SlicePolicy, codes: np.ndarray, values: int, losses: np.ndarray, total: _Sums) -> np.ndarray:
    """Welch's t of each value's mean loss against that of all other rows; 0 for those with too few rows."""
    # Code -1 goes to a bin in front.
    counted = [np.bincount(codes + 1, weights, minlength=values + 1)[1:] for weights in (None, losses, losses**2)]
    inside = _Sums(*(np.asarray(part, np.float64) for part in counted))
    outside = _Sums(*(whole - part for whole, part in zip(total, inside, strict=True)))
    large = (inside.rows >= policy.min_rows) & (outside.rows >= policy.min_rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (inside.mean - outside.mean) / np.sqrt(inside.squared_error + outside.squared_error)
    return np.where(large & np.isfinite(found), found, 0.0)


def _mask(slice_: Slice, codes: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.asarray(np.logical_and.reduce([codes[c.cut.column] == c.code for c in slice_]))


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Of the smaller of two slices, the share that lies in the other."""
    return float((one & other).sum() / max(1, min(one.sum(), other.sum())))


def _measured(
    slice_: Slice, mask: np.ndarray, losses: np.ndarray, champion: np.ndarray | None, alpha: float, column: str
) -> Measured:
    inside, outside = losses[mask], losses[~mask]
    elsewhere = float(outside.mean())
    measured = Measured(
        name=" and ".join(map(str, slice_)),
        column=column,
        rows=len(inside),
        loss=float(inside.mean()),
        ratio=float(inside.mean()) / elsewhere if elsewhere else float("nan"),
        low=unpaired(inside, outside, alpha),
    )
    if champion is None:
        return measured
    before = champion[mask]
    ratio = measured.loss / float(before.mean()) if before.any() else float("nan")
    return measured.model_copy(update={"regression": ratio, "regression_low": paired(inside, before, alpha)})
