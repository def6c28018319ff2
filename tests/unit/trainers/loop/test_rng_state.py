"""Seeds and states of the generators of torch, NumPy and Python."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from trainers.loop import rng_state

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _unchanged_generators() -> Iterator[None]:
    before = rng_state.capture(CPU)
    yield
    rng_state.restore(before, CPU)


def _draw() -> tuple[float, float, float]:
    return torch.rand(()).item(), float(np.random.random()), random.random()


@pytest.mark.parametrize(("number", "of_numpy"), [(5, 5), (2**32 - 1, 2**32 - 1), (2**32 + 5, 5)])
def test_seed_of_any_size_seeds_all_generators(number: int, of_numpy: int) -> None:
    """NumPy accepts 32 bits only."""
    rng_state.seed(number)
    expected = (
        torch.rand((), generator=torch.Generator().manual_seed(number)).item(),
        float(np.random.RandomState(of_numpy).random_sample()),
        random.Random(number).random(),
    )
    assert _draw() == expected


def test_restore_repeats_draws_after_capture() -> None:
    rng_state.seed(1)
    state = rng_state.capture(CPU)
    first = _draw()
    assert _draw() != first
    rng_state.restore(state, CPU)
    assert _draw() == first
