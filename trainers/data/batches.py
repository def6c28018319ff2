"""Where a worker's batches come from, as seen by the training loop; and the feed over rows in memory.

Every worker takes the same number of steps with batches of the same size. The last batch of an epoch is filled up by
starting over with the epoch's first rows: some rows count twice in an epoch, none is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch

from trainers.config import SCORE_ROWS
from trainers.data.sharding import local_batch, share_of


class Batch(NamedTuple):
    """numbers float32 [n, k], codes int64 [n, c], labels float32 [n] (multi-label: [n, labels])."""

    numbers: torch.Tensor
    codes: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(part.to(device, non_blocking=True) for part in self))

    def parts(self, count: int) -> list[Batch]:
        """At most ``count`` batches of about equal size."""
        if count == 1:
            return [self]
        cut = zip(*(torch.chunk(tensor, count) for tensor in self), strict=True)
        return [Batch(*tensors) for tensors in cut]


class Feed(Protocol):
    """Training batches of one worker."""

    @property
    def steps(self) -> int:
        """Steps in an epoch, the same for all workers."""

    @property
    def rows(self) -> int:
        """Rows in an epoch over all workers, each counted once."""

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step ``first`` on."""


class RowSource(Protocol):
    """Rows that batches are picked from."""

    def __len__(self) -> int: ...

    def picked(self, order: np.ndarray) -> Iterator[Batch]:
        """A batch for each row of ``order`` [batches, n], the positions of its rows."""


class HeldOut(Protocol):
    """One worker's share of the held-out rows; ``rows`` counts those of all workers."""

    @property
    def rows(self) -> int: ...

    def parts(self) -> Iterator[tuple[int, Batch]]:
        """Batches with the position of their first row among all held-out rows."""


@dataclass(frozen=True)
class Rows:
    """Encoded rows in memory; the arrays may be read-only views of Ray's object store."""

    numbers: np.ndarray
    codes: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        return self.numbers.nbytes + self.codes.nbytes + self.labels.nbytes

    def take(self, which: np.ndarray) -> Batch:
        parts = (self.numbers, self.codes, self.labels)
        return Batch(*(torch.from_numpy(np.take(part, which, axis=0)) for part in parts))

    def picked(self, order: np.ndarray) -> Iterator[Batch]:
        return map(self.take, order)

    def every(self, count: int) -> Rows:
        """At most ``count`` rows, evenly spaced."""
        step = max(1, -(-len(self) // count))
        return Rows(self.numbers[::step], self.codes[::step], self.labels[::step])


class MemoryFeed:
    """All rows in the memory of every worker, permuted as a whole for each epoch by ``seed``.

    The workers draw the same permutation and take turns in it, so that one step sees the same rows whatever the
    number of workers.
    """

    def __init__(self, rows: Rows, batch_size: int, seed: int, rank: int = 0, workers: int = 1) -> None:
        self.source: RowSource = rows
        self._seed = seed
        self._rank = rank
        self._local = local_batch(len(rows), batch_size, workers)
        self._global = self._local * workers

    @property
    def rows(self) -> int:
        return len(self.source)

    @property
    def steps(self) -> int:
        return -(-self.rows // self._global)

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        order = np.random.default_rng([self._seed, number]).permutation(self.rows)
        steps = np.resize(order, self.steps * self._global).reshape(self.steps, -1, self._local)
        return self.source.picked(steps[first:, self._rank])

    def over(self, rows: RowSource) -> Self:
        """The same batches, picked from ``rows``, which are the same rows elsewhere."""
        made = copy(self)
        made.source = rows
        return made


class MemoryHeldOut:
    """One worker's share of held-out rows that every worker has in memory."""

    def __init__(self, rows: Rows, rank: int = 0, workers: int = 1) -> None:
        self._rows = rows
        self._bounds = share_of(len(rows), rank, workers)

    @property
    def rows(self) -> int:
        return len(self._rows)

    def parts(self) -> Iterator[tuple[int, Batch]]:
        first, end = self._bounds
        for start in range(first, end, SCORE_ROWS):
            yield start, self._rows.take(np.arange(start, min(start + SCORE_ROWS, end)))
