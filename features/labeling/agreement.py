"""How far labelers agree on the rows that several of them labeled. Pure."""

from __future__ import annotations

from typing import Literal

import numpy as np

from cluster.values import Frozen

Coefficient = Literal["Cohen's kappa", "Krippendorff's alpha"]


class Agreement(Frozen):
    """Agreement of the labelers of a model."""

    rows: int
    """Rows with a label by at least one labeler."""
    shared: int
    """Rows with labels by at least two labelers; the figures are about these."""
    labelers: tuple[str, ...]
    percent: float | None = None
    """Share of the pairs of labels that are equal, mean over the shared rows, in [0, 1]; None without shared rows."""
    coefficient: Coefficient = "Krippendorff's alpha"
    value: float | None = None
    """Agreement beyond chance: 1 is perfect, 0 is chance; None where it is undefined, as when all labels are equal."""

    def __str__(self) -> str:
        count = f"{self.rows:,} rows by {len(self.labelers)} labelers"
        if self.percent is None:
            return f"{count}, none by two of them"
        beyond = f"{self.coefficient} {self.value:.3f}" if self.value is not None else f"{self.coefficient} undefined"
        return f"{count}, {self.shared:,} by several: {self.percent:.1%} agreement, {beyond}"


def measure_agreement(labels: np.ndarray, labelers: tuple[str, ...], *, numeric: bool = False) -> Agreement:
    """Measure how far labelers agree.

    Args:
        labels: Labels, [rows, labelers]; NaN where a labeler gave none.
        labelers: Their names.
        numeric: Labels are numbers, and a small difference is a small disagreement.

    Returns:
        Cohen's kappa for two labelers of classes, else Krippendorff's alpha, which allows missing labels.
    """
    counts = np.isfinite(labels).sum(axis=1)
    shared = labels[counts >= 2]
    percent = float(np.mean([_equal_pairs(row) for row in shared])) if len(shared) else None
    kappa = len(labelers) == 2 and not numeric
    value = (
        (cohens_kappa(*shared.T) if kappa else krippendorffs_alpha(shared, numeric=numeric)) if len(shared) else None
    )
    coefficient: Coefficient = "Cohen's kappa" if kappa else "Krippendorff's alpha"
    return Agreement(
        rows=int((counts > 0).sum()), shared=len(shared), labelers=labelers, percent=percent, coefficient=coefficient,
        value=value,
    )  # fmt: skip


def cohens_kappa(first: np.ndarray, second: np.ndarray) -> float | None:
    """Agreement of two labelers beyond that by chance.

    (p - e) / (1 - e), with the share p of equal labels, and e that of labelers who draw independently from their own
    labels (Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological Measurement, 1960).

    Args:
        first: Labels of one labeler, [rows].
        second: Labels of the other one, [rows].

    Returns:
        None if both give the same label to every row.
    """
    classes = np.unique(np.concatenate([first, second]))
    shares = [(labels[:, None] == classes).mean(axis=0) for labels in (first, second)]
    by_chance = float(shares[0] @ shares[1])
    return None if by_chance == 1.0 else (float((first == second).mean()) - by_chance) / (1.0 - by_chance)


def krippendorffs_alpha(labels: np.ndarray, *, numeric: bool = False) -> float | None:
    """Agreement of any number of labelers beyond that by chance; labels may be missing.

    1 - observed / expected disagreement, of classes by the nominal metric, of numbers by the squared difference
    (Krippendorff, "Content Analysis", 4th edition, 2018, chapter 12).

    Args:
        labels: Labels, [rows, labelers]; NaN where a labeler gave none. Rows with fewer than two do not count.
        numeric: Whether labels are numbers.

    Returns:
        None without two labels of a row, or if all labels are equal.
    """
    rows = [row[np.isfinite(row)] for row in labels]
    rows = [row for row in rows if len(row) >= 2]
    if not rows:
        return None
    together = np.concatenate(rows)
    # Sums over ordered pairs of labels: of one row, each weighted by 1 / (labels - 1), and of all rows together.
    observed = sum(_disagreement(row, numeric) / (len(row) - 1) for row in rows)
    expected = _disagreement(together, numeric) / (len(together) - 1)
    return None if expected == 0.0 else float(1.0 - observed / expected)


def _disagreement(values: np.ndarray, numeric: bool) -> float:
    """Sum of the differences of all ordered pairs."""
    if numeric:
        return float(2.0 * len(values) * np.square(values - values.mean()).sum())
    counts = np.unique(values, return_counts=True)[1].astype(float)
    return float(len(values) ** 2 - np.square(counts).sum())


def _equal_pairs(row: np.ndarray) -> float:
    """Share of the pairs of a row's labels that are equal."""
    given = row[np.isfinite(row)]
    counts = np.unique(given, return_counts=True)[1]
    return float((counts * (counts - 1)).sum() / (len(given) * (len(given) - 1)))
