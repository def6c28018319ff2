"""First and second moments that merge by addition, of rows and of the keys that rows belong to. Pure.

The dependence between rows of one key is kept as sums over pairs of different rows of that key. They are exactly 0
where each key comes once, and addition is exact for parts that have no key in common.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from cluster.values import Additive, Frozen


class Moments(Frozen):
    """Moments of one variable."""

    n: int = 0
    mean: float = 0.0
    m2: float = 0.0
    """Sum of squared deviations from the mean."""
    cross_products: float = 0.0
    """Sum of the products of the deviations of different rows of one key."""

    @property
    def variance(self) -> float:
        """Population variance of a row; 0 without values."""
        return self.m2 / self.n if self.n else 0.0

    @property
    def design_effect(self) -> float:
        """Variance of the sum divided by that of as many independent rows; at least 1."""
        return 1.0 + max(self.cross_products, 0.0) / self.m2 if self.m2 else 1.0


class ClusterMoments(Additive):
    """Sums over ordered pairs of different rows of one key."""

    pairs: float = 0.0
    """Number of pairs."""
    champion: float = 0.0
    """Champion's losses of the first rows."""
    challenger: float = 0.0
    """Challenger's losses of the first rows."""
    champion2: float = 0.0
    """Products of the champion's losses of both rows."""
    challenger2: float = 0.0
    """Products of the challenger's losses of both rows."""
    product: float = 0.0
    """Products of the champion's loss of the first row and the challenger's of the second."""

    @classmethod
    def from_losses(cls, champion: np.ndarray, challenger: np.ndarray, keys: np.ndarray) -> Self:
        """Compute from losses [n] and the key of each row, of any type that numpy can sort."""
        _, owner, sizes = np.unique(keys, return_inverse=True, return_counts=True)
        repeated = sizes[owner] > 1
        if not repeated.any():
            return cls()
        a, b, owner = champion[repeated], challenger[repeated], owner[repeated]
        n, sum_a, sum_b = (np.bincount(owner, weights) for weights in (np.ones_like(a), a, b))
        return cls(
            pairs=float(n @ n - n.sum()),
            champion=float(n @ sum_a - a.sum()),
            challenger=float(n @ sum_b - b.sum()),
            champion2=float(sum_a @ sum_a - a @ a),
            challenger2=float(sum_b @ sum_b - b @ b),
            product=float(sum_a @ sum_b - a @ b),
        )

    def cross_products(self, factor: float, mean: float) -> float:
        """Sum of products of the deviations from ``mean`` of ``challenger - factor * champion``."""
        squares = self.challenger2 - 2.0 * factor * self.product + factor**2 * self.champion2
        return squares - 2.0 * mean * (self.challenger - factor * self.champion) + mean**2 * self.pairs


class PairedMoments(Frozen):
    """Losses of both variants on the same labeled rows: two means, and all second moments about them."""

    n: int = 0
    champion: float = 0.0
    challenger: float = 0.0
    m2_champion: float = 0.0
    m2_challenger: float = 0.0
    comoment: float = 0.0
    cluster_moments: ClusterMoments = ClusterMoments()

    @classmethod
    def from_losses(cls, champion: np.ndarray, challenger: np.ndarray, keys: np.ndarray | None = None) -> Self:
        """Compute from the losses [n] of both variants; without ``keys`` all rows are independent."""
        if not champion.size:
            return cls()
        a, b = float(champion.mean()), float(challenger.mean())
        clusters = ClusterMoments() if keys is None else ClusterMoments.from_losses(champion, challenger, keys)
        return cls(
            n=champion.size,
            champion=a,
            challenger=b,
            m2_champion=float(np.square(champion - a).sum()),
            m2_challenger=float(np.square(challenger - b).sum()),
            comoment=float(((champion - a) * (challenger - b)).sum()),
            cluster_moments=clusters,
        )

    @property
    def effective_n(self) -> float:
        """Effective sample size when all rows of one key are alike: n² / sum of (rows of a key)².

        Kish, "Survey sampling", 1965, section 8.2. One key that dominates brings it down to 1.
        """
        return self.n**2 / (self.n + self.cluster_moments.pairs) if self.n else 0.0

    def excess(self, margin: float) -> Moments:
        """Moments of ``challenger - (1 + margin) * champion``: above 0, the challenger loses more than allowed."""
        factor = 1.0 + margin
        mean = self.challenger - factor * self.champion
        m2 = self.m2_challenger + factor**2 * self.m2_champion - 2.0 * factor * self.comoment
        return Moments(
            n=self.n, mean=mean, m2=max(m2, 0.0), cross_products=self.cluster_moments.cross_products(factor, mean)
        )

    def __add__(self, other: PairedMoments) -> PairedMoments:
        """Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm", 1979, eq. 2.1."""
        n = self.n + other.n
        if not n:
            return self
        weight = self.n * other.n / n
        a, b = other.champion - self.champion, other.challenger - self.challenger
        return PairedMoments(
            n=n,
            champion=self.champion + a * other.n / n,
            challenger=self.challenger + b * other.n / n,
            m2_champion=self.m2_champion + other.m2_champion + a * a * weight,
            m2_challenger=self.m2_challenger + other.m2_challenger + b * b * weight,
            comoment=self.comoment + other.comoment + a * b * weight,
            cluster_moments=self.cluster_moments + other.cluster_moments,
        )
