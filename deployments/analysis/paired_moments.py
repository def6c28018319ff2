"""First and second moments that merge by addition, of rows and of the keys that rows belong to. Pure.

What keys add is kept as sums over pairs of different rows of one key. They are exactly 0 where each key comes once, and
addition is exact for parts that have no key in common.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from cluster.values import Frozen


class Moments(Frozen):
    """Count, mean, and sum of squared deviations.

    ``between`` is the sum of products of the deviations of different rows of one key.
    """

    n: int = 0
    mean: float = 0.0
    m2: float = 0.0
    between: float = 0.0

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        if not values.size:
            return cls()
        mean = float(values.mean())
        return cls(n=values.size, mean=mean, m2=float(np.square(values - mean).sum()))

    @property
    def variance(self) -> float:
        """Population variance of a row; 0 without values."""
        return self.m2 / self.n if self.n else 0.0

    @property
    def design_effect(self) -> float:
        """The variance of the sum, by that of as many rows of strangers; at least 1."""
        return 1.0 + max(self.between, 0.0) / self.m2 if self.m2 else 1.0


class Repeats(Frozen):
    """Sums over ordered pairs of different rows of one key: of the product of the champion's losses, and so on.

    ``pairs`` counts them; ``champion`` and ``challenger`` sum the loss of the first.
    """

    pairs: float = 0.0
    champion: float = 0.0
    challenger: float = 0.0
    champion2: float = 0.0
    challenger2: float = 0.0
    product: float = 0.0

    @classmethod
    def of(cls, champion: np.ndarray, challenger: np.ndarray, keys: np.ndarray) -> Self:
        """From losses [n] and the key of each row, of any kind that numpy can sort."""
        _, owner, sizes = np.unique(keys, return_inverse=True, return_counts=True)
        again = sizes[owner] > 1
        if not again.any():
            return cls()
        a, b, owner = champion[again], challenger[again], owner[again]
        n, sum_a, sum_b = (np.bincount(owner, weights) for weights in (np.ones_like(a), a, b))
        return cls(
            pairs=float(n @ n - n.sum()),
            champion=float(n @ sum_a - a.sum()),
            challenger=float(n @ sum_b - b.sum()),
            champion2=float(sum_a @ sum_a - a @ a),
            challenger2=float(sum_b @ sum_b - b @ b),
            product=float(sum_a @ sum_b - a @ b),
        )

    def between(self, factor: float, mean: float) -> float:
        """Sum of products of the deviations from ``mean`` of ``challenger - factor * champion``."""
        squares = self.challenger2 - 2.0 * factor * self.product + factor**2 * self.champion2
        return squares - 2.0 * mean * (self.challenger - factor * self.champion) + mean**2 * self.pairs

    def __add__(self, other: Repeats) -> Repeats:
        return Repeats(**{name: getattr(self, name) + getattr(other, name) for name in Repeats.model_fields})


class Paired(Frozen):
    """Losses of both variants on the same labelled rows: two means, and all second moments about them."""

    n: int = 0
    champion: float = 0.0
    challenger: float = 0.0
    m2_champion: float = 0.0
    m2_challenger: float = 0.0
    co: float = 0.0
    repeats: Repeats = Repeats()

    @classmethod
    def of(cls, champion: np.ndarray, challenger: np.ndarray, keys: np.ndarray | None = None) -> Self:
        """From losses of equal length, row by row; without ``keys`` each row is a stranger to the others."""
        if not champion.size:
            return cls()
        a, b = float(champion.mean()), float(challenger.mean())
        return cls(
            n=champion.size,
            champion=a,
            challenger=b,
            m2_champion=float(np.square(champion - a).sum()),
            m2_challenger=float(np.square(challenger - b).sum()),
            co=float(((champion - a) * (challenger - b)).sum()),
            repeats=Repeats() if keys is None else Repeats.of(champion, challenger, keys),
        )

    @property
    def strangers(self) -> float:
        """How many rows of keys that come once tell as much, when rows of one key are all alike: n² / sum of (rows of a
        key)² (Kish, "Survey sampling", 1965, section 8.2). One key that dominates brings it down to 1."""
        return self.n**2 / (self.n + self.repeats.pairs) if self.n else 0.0

    def excess(self, margin: float) -> Moments:
        """Moments of ``challenger - (1 + margin) * champion``: above 0, the challenger loses more than allowed."""
        factor = 1.0 + margin
        mean = self.challenger - factor * self.champion
        m2 = self.m2_challenger + factor**2 * self.m2_champion - 2.0 * factor * self.co
        return Moments(n=self.n, mean=mean, m2=max(m2, 0.0), between=self.repeats.between(factor, mean))

    def __add__(self, other: Paired) -> Paired:
        """Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm", 1979, eq. 2.1."""
        n = self.n + other.n
        if not n:
            return self
        weight = self.n * other.n / n
        a, b = other.champion - self.champion, other.challenger - self.challenger
        return Paired(
            n=n,
            champion=self.champion + a * other.n / n,
            challenger=self.challenger + b * other.n / n,
            m2_champion=self.m2_champion + other.m2_champion + a * a * weight,
            m2_challenger=self.m2_challenger + other.m2_challenger + b * b * weight,
            co=self.co + other.co + a * b * weight,
            repeats=self.repeats + other.repeats,
        )
