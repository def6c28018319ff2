"""The state of all generators of random numbers that a module may draw from."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

State = dict[str, Any]


def state(device: torch.device) -> State:
    """Of torch, NumPy and Python, as values that torch.load accepts."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": (str(name), np.asarray(keys).tolist(), *rest),
        "python": random.getstate(),
    }


def restore(found: State, device: torch.device) -> None:
    """Go on where ``state`` was taken."""
    torch.set_rng_state(found["torch"])
    if device.type == "cuda" and found["device"] is not None:
        torch.cuda.set_rng_state(found["device"], device)
    np.random.set_state(found["numpy"])
    version, numbers, gauss = found["python"]
    random.setstate((version, tuple(numbers), gauss))


def seed(number: int) -> None:
    """Begin anew from ``number``, for all of them."""
    torch.manual_seed(number)
    np.random.seed(number % 2**32)
    random.seed(number)
