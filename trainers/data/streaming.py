"""Encoded rows, and loaders over those that do not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import ray
import torch
from ray.data import DataIterator, Dataset

from cluster.errors import DataError
from trainers.config import SCORE_BATCH_ROWS, TrainConfig
from trainers.data.batches import Batch, EncodedRows
from trainers.data.sharding import epoch_steps, local_batch_rows, shard_bounds


@dataclass(frozen=True)
class EncodedPart:
    """Encoded rows of one part: in Ray's object store (``rows_ref``), or as a Dataset that is split on demand."""

    rows: int
    codes: int
    width: int
    dataset: Dataset | None = None
    rows_ref: ray.ObjectRef[Any] | None = None

    def load(self) -> EncodedRows:
        """The rows in memory, without a copy on the node that stores them."""
        assert self.rows_ref is not None
        return EncodedRows(**ray.get(self.rows_ref))

    def sample(self, count: int) -> EncodedRows:
        """At most ``count`` rows, evenly spaced."""
        if self.rows_ref is not None:
            return self.load().thin(count)
        assert self.dataset is not None
        step, at, batches = max(1, -(-self.rows // count)), 0, []
        for batch in self.dataset.iter_batches(batch_size=SCORE_BATCH_ROWS, batch_format="numpy"):
            batches.append({name: values[-at % step :: step] for name, values in batch.items()})
            at += len(batch["labels"])
        return concat_rows(batches, self.width, self.codes)


class StreamLoader:
    """Loader that streams batches from one worker's shard, shuffled within a buffer by the epoch's seed.

    A shard that ends early, by a row or within the last batch, starts over (see batches.py).
    """

    def __init__(self, shard: DataIterator, part: EncodedPart, config: TrainConfig, rank: int, workers: int) -> None:
        if part.rows < workers:
            raise DataError("data.fewer_rows_than_workers", rows=part.rows, workers=workers)
        self._shard = shard
        self._part = part
        self._config = config
        self._rank = rank
        self.rows = part.rows
        self._local = local_batch_rows(self.rows, config.batch_size, workers)
        self.steps = epoch_steps(self.rows, self._local, workers)

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        """Reads and drops the steps before ``first``, so that the others keep their order."""
        return islice(self._epoch(number), first, None)

    def _epoch(self, number: int) -> Iterator[Batch]:
        seed = int(np.random.default_rng([self._config.seed, number, self._rank]).integers(2**31))
        endless = (batch for _ in iter(int, 1) for batch in self._batches(seed))
        for _ in range(self.steps):
            batch = next(endless)
            while len(batch.labels) < self._local:
                extra = next(endless)
                batch = Batch(
                    *(torch.cat(pair)[: self._local] for pair in zip(batch.tensors, extra.tensors, strict=True))
                )
            yield batch

    def _batches(self, seed: int) -> Iterator[Batch]:
        options: dict[str, Any] = {}
        if self._config.shuffle_rows > self._local:
            options = {"local_shuffle_buffer_size": self._config.shuffle_rows, "local_shuffle_seed": seed}
        for batch in self._shard.iter_batches(batch_size=self._local, batch_format="numpy", **options):
            yield _batch(batch, self._part)


class StreamValidationLoader:
    """Loader that streams held-out rows from one worker's shard."""

    def __init__(self, shard: DataIterator, part: EncodedPart, rank: int, workers: int) -> None:
        self._shard = shard
        self._part = part
        self.rows = part.rows
        self._first = shard_bounds(part.rows, rank, workers)[0]

    def batches(self) -> Iterator[tuple[int, Batch]]:
        at = self._first
        for arrays in self._shard.iter_batches(batch_size=SCORE_BATCH_ROWS, batch_format="numpy"):
            yield at, _batch(arrays, self._part)
            at += len(arrays["labels"])


def concat_rows(batches: list[dict[str, np.ndarray]], width: int, codes: int) -> EncodedRows:
    """The rows of all ``batches``; ``width`` and ``codes`` are the columns of "numbers" and "codes", which may be 0."""
    parts = zip(*(_complete(batch, width, codes) for batch in batches), strict=True)
    return EncodedRows(*(np.concatenate(part) for part in parts))


def _batch(arrays: dict[str, np.ndarray], part: EncodedPart) -> Batch:
    return Batch(*(torch.from_numpy(np.array(values)) for values in _complete(arrays, part.width, part.codes)))


def _complete(arrays: dict[str, np.ndarray], width: int, codes: int) -> tuple[np.ndarray, ...]:
    """Numbers, codes, labels and weights; of the first two, those without columns are absent in ``arrays``, and so are
    weights where all rows count alike."""
    labels = arrays["labels"]
    numbers = arrays["numbers"] if width else np.empty((len(labels), 0), np.float32)
    weights = [arrays["weights"]] if "weights" in arrays else []
    return numbers, arrays["codes"] if codes else np.empty((len(labels), 0), np.int64), labels, *weights
