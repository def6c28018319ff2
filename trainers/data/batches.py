"""Loaders of a worker's batches: the interface that the training loop uses, and the loaders of rows in memory.

Every worker takes the same number of steps with batches of the same size. The last batch of an epoch is filled with the
epoch's first rows, so some rows count twice in an epoch and none is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch

from trainers.config import SCORE_BATCH_ROWS
from trainers.data.sharding import epoch_steps, local_batch_rows, shard_bounds


class Batch(NamedTuple):
    """Encoded rows: numbers float32 [n, k], codes int64 [n, c], labels float32 [n] (multi-label: [n, labels]).

    ``weights`` float32 [n] multiply the loss of the rows; None weights all equally.
    """

    numbers: torch.Tensor
    codes: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor | None = None

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The tensors that there are."""
        return tuple(part for part in self if part is not None)

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``."""
        return Batch(*(part.to(device, non_blocking=True) for part in self.tensors))

    def split(self, count: int) -> list[Batch]:
        """Split into at most ``count`` batches of about equal size."""
        if count == 1:
            return [self]
        return [Batch(*tensors) for tensors in zip(*(torch.chunk(part, count) for part in self.tensors), strict=True)]


class BatchLoader(Protocol):
    """Training batches of one worker."""

    @property
    def steps(self) -> int:
        """Steps in an epoch, the same for all workers."""

    @property
    def rows(self) -> int:
        """Distinct rows in an epoch, over all workers."""

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        """Batches of epoch ``number``, from step ``first`` on."""


class RowSource(Protocol):
    """Rows from which batches are selected."""

    def select(self, order: np.ndarray) -> Iterator[Batch]:
        """One batch for each row of ``order`` [batches, n], which holds the positions of its rows."""


class ValidationLoader(Protocol):
    """One worker's share of the held-out rows."""

    @property
    def rows(self) -> int:
        """Held-out rows of all workers."""

    def batches(self) -> Iterator[tuple[int, Batch]]:
        """Batches, each with the position of its first row among all held-out rows."""


@dataclass(frozen=True)
class EncodedRows:
    """Encoded rows in memory; the arrays may be read-only views of Ray's object store."""

    numbers: np.ndarray
    codes: np.ndarray
    labels: np.ndarray
    weights: np.ndarray | None = None
    """How much each row counts in the loss; None: all alike."""

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The arrays that there are, in the order of ``Batch``."""
        weights = () if self.weights is None else (self.weights,)
        return (self.numbers, self.codes, self.labels, *weights)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes."""
        return sum(part.nbytes for part in self.arrays)

    def take(self, positions: np.ndarray) -> Batch:
        """The rows at ``positions``, copied."""
        return Batch(*(torch.from_numpy(np.take(part, positions, axis=0)) for part in self.arrays))

    def select(self, order: np.ndarray) -> Iterator[Batch]:
        return map(self.take, order)

    def thin(self, count: int) -> EncodedRows:
        """At most ``count`` rows, evenly spaced."""
        step = max(1, -(-len(self) // count))
        return EncodedRows(*(part[::step] for part in self.arrays))


class MemoryLoader:
    """Loader over rows that every worker has in memory, permuted as a whole for each epoch.

    All workers draw the same permutation and take turns in it, so a step sees the same rows for any number of workers.
    """

    def __init__(self, rows: EncodedRows, batch_size: int, seed: int, rank: int = 0, workers: int = 1) -> None:
        self.source: RowSource = rows
        self.rows = len(rows)
        self._seed = seed
        self._rank = rank
        self._workers = workers
        self._local = local_batch_rows(self.rows, batch_size, workers)
        self.steps = epoch_steps(self.rows, self._local, workers)

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        order = np.random.default_rng([self._seed, number]).permutation(self.rows)
        steps = np.resize(order, (self.steps, self._workers, self._local))
        return self.source.select(steps[first:, self._rank])

    def with_source(self, rows: RowSource) -> Self:
        """A loader of the same batches, selected from a copy of the rows in another place."""
        loader = copy(self)
        loader.source = rows
        return loader


class MemoryValidationLoader:
    """Loader over one worker's share of held-out rows that every worker has in memory."""

    def __init__(self, rows: EncodedRows, rank: int = 0, workers: int = 1) -> None:
        self._source = rows
        self.rows = len(rows)
        self._bounds = shard_bounds(self.rows, rank, workers)

    def batches(self) -> Iterator[tuple[int, Batch]]:
        first, end = self._bounds
        for start in range(first, end, SCORE_BATCH_ROWS):
            yield start, self._source.take(np.arange(start, min(start + SCORE_BATCH_ROWS, end)))
