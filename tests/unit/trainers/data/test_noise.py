"""Noise on training rows: its size, and that it is a function of seed, worker, epoch and step."""

from __future__ import annotations

import numpy as np
import torch

from tests.factories.trainers.resumable import encoded_parts
from trainers.config import TrainConfig
from trainers.data.batches import Batch, BatchLoader, MemoryLoader
from trainers.data.noise import noisy_batches, noisy_rows

CONFIG = TrainConfig(batch_size=32, workers=1, noise=0.25)


def _loader(config: TrainConfig = CONFIG, rank: int = 0) -> BatchLoader:
    train, _, inputs = encoded_parts()
    return noisy_batches(MemoryLoader(train, config.batch_size, config.seed), config, inputs, rank)


def _plain() -> MemoryLoader:
    return MemoryLoader(encoded_parts()[0], CONFIG.batch_size, CONFIG.seed)


def _numbers(batches: list[Batch]) -> torch.Tensor:
    return torch.cat([batch.numbers for batch in batches])


def test_batches_have_noise_of_the_declared_size_and_missing_values_stay() -> None:
    epochs = range(1, 40)
    noisy = _numbers([batch for number in epochs for batch in _loader().epoch(number)])
    plain = _numbers([batch for number in epochs for batch in _plain().epoch(number)])
    assert torch.equal(noisy.isnan(), plain.isnan())
    assert plain.isnan().any()
    drawn = (noisy - plain).double().numpy() / np.array(encoded_parts()[2].std)
    for column in drawn.T:
        values = column[np.isfinite(column)]
        assert abs(values.std() - CONFIG.noise) < 0.02
        assert abs(values.mean()) < 0.02


def test_noise_is_a_function_of_seed_worker_epoch_and_step() -> None:
    whole, later = list(_loader().epoch(2)), list(_loader().epoch(2, first=3))
    assert torch.equal(_numbers(whole[3:]).nan_to_num(), _numbers(later).nan_to_num())
    others = (_loader(CONFIG.model_copy(update={"noise": 0.5})), _loader(rank=1))
    for other in others:
        assert not torch.equal(_numbers(list(other.epoch(2))).nan_to_num(), _numbers(whole).nan_to_num())
    first, second = (_numbers(list(_loader().epoch(n))) - _numbers(list(_plain().epoch(n))) for n in (1, 2))
    assert not torch.equal(first.nan_to_num(), second.nan_to_num())


def test_labels_and_codes_have_no_noise() -> None:
    for noisy, plain in zip(_loader().epoch(1), _plain().epoch(1), strict=True):
        assert torch.equal(noisy.codes, plain.codes)
        assert torch.equal(noisy.labels, plain.labels)


def test_rows_of_trees_have_noise_once() -> None:
    train, _, inputs = encoded_parts()
    noisy, again = (noisy_rows(train, CONFIG, inputs) for _ in range(2))
    assert np.array_equal(noisy.numbers, again.numbers, equal_nan=True)
    assert noisy.numbers.dtype == np.float32
    drawn = (noisy.numbers - train.numbers)[:, 0] / inputs.std[0]
    assert 0.15 < drawn.std() < 0.35
    assert noisy.codes is train.codes


def test_without_noise_nothing_is_wrapped() -> None:
    train, _, inputs = encoded_parts()
    config = TrainConfig(workers=1)
    loader = _plain()
    assert noisy_batches(loader, config, inputs, 0) is loader
    assert noisy_rows(train, config, inputs) is train
