"""What is known of labeling functions: coverage, agreement, accuracy, dependence; and the weak labels. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
import polars as pl

from cluster.errors import DataError
from cluster.values import Frozen, Stored, Task
from features.labeling.label_model import UNKNOWN, LabelModel, VoteCounts, fit_label_model, one_hot
from features.labeling.labeling_functions import ABSTAIN, WeakLabels, cast_votes

MIN_ROWS = 10
"""Rows on which three functions must vote in pairs, or true labels that one of them needs, to estimate an accuracy."""
FEW_TRUE = 50
"""True labels below which a warning tells that they are too few to check the estimate."""
DEPENDENT = 0.1
"""Residual dependence (phi coefficient) of two functions from which a warning tells of it."""
HEAD = ("function", "coverage", "overlap", "conflict", "accuracy (95%)", "chance", "on true labels")
_Z = 1.96
_LABEL, _ROWS = "__label", "__rows"


class FunctionEstimate(Frozen):
    """What is known of one labeling function. Shares are of the training rows."""

    name: str
    coverage: float
    """Share of rows with a vote."""
    overlap: float
    """Share of rows with a vote, and one of another function."""
    conflict: float
    """Share of rows with a vote, and a different one of another function."""
    accuracy: float | None = None
    """Estimated probability that a vote is right; None without votes."""
    standard_error: float = 0.0
    """Of ``accuracy``, if functions depend on each other by the class only."""
    chance: float = 0.0
    """Accuracy of votes as frequent that do not depend on the class."""
    true_votes: int = 0
    """Votes on rows with a true label."""
    true_accuracy: float | None = None
    """Share of these votes that are right; None without them."""

    def cells(self) -> tuple[str, ...]:
        """The figures as texts, in the order of HEAD."""
        shares = tuple(f"{share:.1%}" for share in (self.coverage, self.overlap, self.conflict))
        estimated = (
            ("-", "-")
            if self.accuracy is None
            else (f"{self.accuracy:.3f} ± {_Z * self.standard_error:.3f}", f"{self.chance:.3f}")
        )
        true = "-" if self.true_accuracy is None else f"{self.true_accuracy:.3f} of {self.true_votes:,}"
        return (self.name, *shares, *estimated, true)

    @property
    def is_worse_than_chance(self) -> bool:
        """Whether the accuracy is below chance beyond its uncertainty."""
        return self.accuracy is not None and self.accuracy + _Z * self.standard_error < self.chance


class Dependence(Frozen):
    """Two functions that agree or differ more than their classes explain."""

    functions: tuple[str, str]
    phi: float
    """Root of chi-square by row of their joint votes against what the model expects."""


class WeakEstimate(Stored, stored_as="estimate of weak labels"):
    """Which functions gave weak labels, how accurate they are, and how many rows have one."""

    content_hash: str
    """Hash of the functions and their weight (WeakLabels)."""
    weight: float
    functions: tuple[FunctionEstimate, ...]
    dependences: tuple[Dependence, ...]
    """Strongest first."""
    prior: tuple[float, ...]
    """Estimated share of each class."""
    rows: int
    """Training rows with a weak label."""
    unlabeled: int
    """Training rows without a true label."""
    unlabeled_weight: float
    """How much one of them counted in the estimate, beside 1 for a row with a true label."""
    true_rows: int
    """Training rows with a true label."""

    def __str__(self) -> str:
        names = ", ".join(function.name for function in self.functions)
        return f"{self.rows:,} rows, weight {self.weight:g}, by {names} ({self.content_hash[:8]})"

    def table(self) -> list[tuple[str, ...]]:
        """The functions as texts, a tuple for each, in the order of HEAD."""
        return [f.cells() for f in self.functions]

    def summary(self) -> str:
        """How many rows have which labels."""
        counts = f"{self.rows:,} of {self.unlabeled:,} training rows without a label get a weak one"
        return f"{counts}; {self.true_rows:,} have a true one"

    def lines(self) -> Iterator[str]:
        """The table of functions, the numbers of rows, and the warnings."""
        rows = [HEAD, *self.table()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            yield "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        yield self.summary()
        yield from (f"WARNING: {warning}" for warning in self.warnings())

    def warnings(self) -> Iterator[str]:
        """What a reader should act on before training."""
        for f in self.functions:
            if f.accuracy is None:
                yield f"{f.name} never votes"
            elif f.is_worse_than_chance:
                yield f"{f.name} is worse than chance: fix or remove it"
        if self.true_rows < FEW_TRUE:
            yield (
                f"{self.true_rows} true labels: functions that copy each other look like accurate ones; label at least "
                f"{FEW_TRUE} rows of the training part at random"
            )
        if self.unlabeled_weight < 1:
            yield (
                "the functions agree in ways that the true labels contradict: in the estimate a row without a label "
                f"counts as {self.unlabeled_weight:.2g} of one with a label"
            )
        for pair in self.dependences:
            first, second = pair.functions
            yield (
                f"{first} and {second} depend on each other beyond the class (phi {pair.phi:.2f}): they count "
                "as two opinions, and accuracies may be too high; merge them, or check against true labels"
            )


class Estimated(NamedTuple):
    """An estimate, and the weak label of each row of votes."""

    estimate: WeakEstimate
    posteriors: pl.DataFrame
    """A row for each different row of votes: a column for each function, and ``posterior``, a list of probabilities of
    the classes. Rows on which all functions abstain are not in it."""


def count_votes(weak: WeakLabels, task: Task, rows: pl.DataFrame, label: str = "") -> pl.DataFrame:
    """Count the different rows of votes.

    Args:
        weak: The functions.
        task: The task.
        rows: Rows with the columns that the functions read.
        label: Column with their true labels; empty: they have none.

    Returns:
        A column for each function, one with the label, and one with the number of rows.
    """
    labels = pl.lit(UNKNOWN).alias(_LABEL) if not label else rows[label].alias(_LABEL)
    votes = cast_votes(weak, task, rows).with_columns(labels.cast(pl.Int16))
    return votes.group_by(votes.columns).agg(pl.len().cast(pl.Int64).alias(_ROWS))


def estimate_weak_labels(weak: WeakLabels, task: Task, counted: list[pl.DataFrame]) -> Estimated:
    """Estimate the accuracies of labeling functions, and combine their votes.

    Args:
        weak: The functions.
        task: The task.
        counted: Votes of all training rows, with and without a true label, as ``count_votes`` returns them.

    Raises:
        DataError: No row without a label has a vote, or accuracies do not follow from the votes.
    """
    names = [function.name for function in weak.functions]
    merged = pl.concat(counted).group_by(*names, _LABEL).agg(pl.col(_ROWS).sum()).sort(*names, _LABEL)
    counts = VoteCounts(merged.select(names).to_numpy(), merged[_LABEL].to_numpy(), merged[_ROWS].to_numpy())
    is_weak = (counts.labels < 0) & (counts.votes != ABSTAIN).any(axis=1)
    unlabeled = int(counts.counts[counts.labels < 0].sum())
    if not is_weak.any():
        raise DataError("data.weak_labels_no_votes", rows=unlabeled, functions=len(names))
    # A function without votes tells nothing, not even by its abstentions.
    active = np.flatnonzero((counts.votes != ABSTAIN).any(axis=0))
    voting = counts._replace(votes=counts.votes[:, active])
    _require_identified([names[j] for j in active], voting)
    model = fit_label_model(voting, max(2, task.outputs))
    figures = np.full((len(names), 3), np.nan)
    figures[active] = np.stack([model.accuracies, model.standard_errors(voting), model.chance], axis=1)
    estimate = WeakEstimate(
        content_hash=weak.content_hash,
        weight=weak.weight,
        functions=tuple(_estimate_function(name, j, counts, figures[j]) for j, name in enumerate(names)),
        dependences=tuple(sorted(_dependences([names[j] for j in active], voting, model), key=lambda pair: -pair.phi)),
        prior=tuple(model.prior.tolist()),
        rows=int(counts.counts[is_weak].sum()),
        unlabeled=unlabeled,
        unlabeled_weight=model.unlabeled,
        true_rows=int(counts.counts[counts.labels >= 0].sum()),
    )
    posterior = model.posterior(voting.votes[is_weak])
    return Estimated(
        estimate, merged.filter(is_weak).select(names).with_columns(posterior=pl.Series(posterior.tolist()))
    )


def _require_identified(names: list[str], counts: VoteCounts) -> None:
    """Refuse functions whose accuracy follows neither from true labels nor from two others (Kruskal 1977)."""
    voted = (counts.votes != ABSTAIN).astype(float)
    pairs = (voted * counts.counts[:, None]).T @ voted >= MIN_ROWS
    true = voted.T @ (counts.counts * (counts.labels >= 0)) >= MIN_ROWS
    in_three = {
        j
        for three in combinations(range(len(names)), 3)
        if all(pairs[p] for p in combinations(three, 2))
        for j in three
    }
    if unknown := [name for j, name in enumerate(names) if not true[j] and j not in in_three]:
        raise DataError("data.weak_labels_unidentified", functions=unknown, rows=MIN_ROWS)


def _estimate_function(name: str, j: int, counts: VoteCounts, figures: np.ndarray) -> FunctionEstimate:
    """What is known of the function in column ``j``; ``figures`` are accuracy, standard error and chance."""
    total, own = counts.counts.sum(), counts.votes[:, j]
    voted, others = own != ABSTAIN, np.delete(counts.votes, j, axis=1)
    overlaps = voted & (others != ABSTAIN).any(axis=1)
    conflicts = voted & ((others != ABSTAIN) & (others != own[:, None])).any(axis=1)
    coverage, overlap, conflict = (float(counts.counts[part].sum() / total) for part in (voted, overlaps, conflicts))
    known = voted & (counts.labels >= 0)
    true_votes = int(counts.counts[known].sum())
    right = counts.counts[known & (own == counts.labels)].sum()
    accuracy, error, chance = figures.tolist()
    return FunctionEstimate(
        name=name, coverage=coverage, overlap=overlap, conflict=conflict,
        accuracy=accuracy if voted.any() else None, standard_error=error if voted.any() else 0.0,
        chance=chance if voted.any() else 0.0,
        true_votes=true_votes, true_accuracy=float(right / true_votes) if true_votes else None,
    )  # fmt: skip


def _dependences(names: list[str], counts: VoteCounts, model: LabelModel) -> Iterator[Dependence]:
    """Pairs whose joint outcomes differ from what the model expects by DEPENDENT or more.

    Where a function's abstentions tell nothing of the class, the rows that count are those on which it votes.
    """
    weights = counts.counts * np.where(counts.labels < 0, model.unlabeled, 1.0)
    counted = model.outcomes.sum(axis=1) > 0
    outcomes = one_hot(counts.votes, len(model.prior)).reshape(-1, *counted.shape) * counted
    for i, j in combinations(range(len(names)), 2):
        joint = np.einsum("n,na,nb->ab", counts.counts, outcomes[:, i], outcomes[:, j])
        rows, fitted = joint.sum(), float(weights @ (outcomes[:, i].sum(axis=1) * outcomes[:, j].sum(axis=1)))
        if fitted < MIN_ROWS:
            continue
        expected = np.einsum("k,ka,kb->ab", model.prior, model.outcomes[i], model.outcomes[j])
        chi_square = ((joint / rows - expected) ** 2 / np.where(expected > 0, expected, 1.0)).sum()
        freedom = (counted[i].sum() - 1) * (counted[j].sum() - 1)
        # What chance adds is taken off, in the rows and in those that the model was fitted to: its mean, and twice its
        # standard deviation.
        by_chance = (freedom + 2.0 * np.sqrt(2.0 * freedom)) * (1.0 / rows + 1.0 / fitted)
        if chi_square - by_chance >= DEPENDENT**2:
            yield Dependence(functions=(names[i], names[j]), phi=float(np.sqrt(chi_square)))
