"""Gaussian noise on the numbers of training rows (Bishop 1995, "Training with noise is equivalent to Tikhonov
regularization"). Missing numbers stay missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from trainers.config import TrainConfig
from trainers.data.batches import Batch, BatchLoader, EncodedRows
from trainers.input_spec import InputSpec

_STREAM = 28
"""Sets these draws apart from others of the same seed."""


class NoisyLoader:
    """Loader of the same batches with noise that is drawn for each step.

    The draws are a function of seed, worker, epoch and step: a training run that resumes sees the same noise.

    Args:
        loader: The batches.
        scale: Standard deviation of the noise, by column.
        seed: Seed of the draws.
        rank: The worker's rank.
    """

    def __init__(self, loader: BatchLoader, scale: np.ndarray, seed: int, rank: int) -> None:
        self._loader, self._scale, self._seed, self._rank = loader, scale, seed, rank
        self.steps, self.rows = loader.steps, loader.rows

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        """Batches of epoch ``number``, from step ``first`` on."""
        for step, batch in enumerate(self._loader.epoch(number, first), start=first):
            noise = _draw(tuple(batch.numbers.shape), self._scale, [self._seed, self._rank, number, step])
            yield batch._replace(numbers=batch.numbers + torch.from_numpy(noise).to(batch.numbers.device))


def noisy_batches(loader: BatchLoader, config: TrainConfig, inputs: InputSpec, rank: int) -> BatchLoader:
    """A loader of the same batches, with noise if the settings ask for it."""
    return NoisyLoader(loader, _scale(config, inputs), config.seed, rank) if config.noise else loader


def noisy_rows(rows: EncodedRows, config: TrainConfig, inputs: InputSpec) -> EncodedRows:
    """The same rows, with noise if the settings ask for it."""
    if not config.noise:
        return rows
    return replace(rows, numbers=rows.numbers + _draw(rows.numbers.shape, _scale(config, inputs), [config.seed]))


def _scale(config: TrainConfig, inputs: InputSpec) -> np.ndarray:
    return config.noise * np.asarray(inputs.std, np.float32)


def _draw(shape: tuple[int, ...], scale: np.ndarray, key: list[int]) -> np.ndarray:
    drawn = np.random.default_rng([_STREAM, *key]).standard_normal(shape, np.float32)
    return np.asarray(drawn * scale, np.float32)
