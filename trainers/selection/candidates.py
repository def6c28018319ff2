"""Candidates of a race: kinds of models with settings, the defaults of each kind first, then draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np

from trainers.config import (
    Choice,
    IntRange,
    LogUniform,
    ModelSpec,
    Parameter,
    Space,
    TrainConfig,
    Uniform,
    apply_settings,
)

SPACES: Mapping[str, Mapping[str, Space]] = {
    "lightgbm": {
        "learning_rate": LogUniform(low=0.02, high=0.2),
        "num_leaves": Choice(options=(7, 15, 31, 63, 127)),
        "min_child_samples": Choice(options=(5, 10, 20, 50, 100)),
        "subsample": Uniform(low=0.5, high=1.0),
        "colsample_bytree": Uniform(low=0.4, high=1.0),
        "reg_lambda": LogUniform(low=1e-3, high=30.0),
        "extra_trees": Choice(options=(False, True)),
    },
    "xgboost": {
        "learning_rate": LogUniform(low=0.02, high=0.2),
        "max_depth": IntRange(low=3, high=10),
        "min_child_weight": LogUniform(low=0.5, high=50.0),
        "subsample": Uniform(low=0.5, high=1.0),
        "colsample_bytree": Uniform(low=0.4, high=1.0),
        "reg_lambda": LogUniform(low=0.1, high=30.0),
    },
    "mlp": {
        "hidden": Choice(options=((64,), (128, 64), (256, 128), (256, 256, 128))),
        "dropout": Uniform(low=0.0, high=0.5),
        "lr": LogUniform(low=5e-4, high=1e-2),
        "weight_decay": LogUniform(low=1e-4, high=0.3),
    },
    "linear": {
        "lr": LogUniform(low=2e-3, high=3e-2),
        "weight_decay": LogUniform(low=1e-4, high=1.0),
    },
}
"""Settings that are drawn, by kind: parameters of the model and fields of TrainConfig. Ranges that published searches
over tables use (Grinsztajn et al. 2022, arXiv:2207.08815, appendix A.3)."""

MODULE_EPOCHS, MODULE_PATIENCE = 20, 6
MIN_BATCH, MAX_BATCH = 64, 2048
STEPS_PER_EPOCH = 64
"""Steps that an epoch of a module has at least, as far as MIN_BATCH and MAX_BATCH allow."""


class RaceCandidate(NamedTuple):
    """A kind of model with settings."""

    family: str
    settings: dict[str, Parameter]
    """Those that differ from the kind's defaults."""

    def configure(self, base: TrainConfig, rows: int) -> tuple[ModelSpec, TrainConfig]:
        """The model and its training settings for so many training rows; the project's own from ``base``."""
        spec = ModelSpec(build=self.family)  # type: ignore[arg-type]
        settings: dict[str, Any] = dict(self.settings)
        if spec.is_module:
            batch = min(MAX_BATCH, max(MIN_BATCH, rows // STEPS_PER_EPOCH))
            settings |= {"epochs": MODULE_EPOCHS, "patience": MODULE_PATIENCE, "batch_size": batch}
        return apply_settings(spec, base, settings)


def propose(families: Sequence[str], count: int, seed: int) -> tuple[RaceCandidate, ...]:
    """Candidates in the order in which they are tried: the kinds take turns, each first with its defaults.

    Args:
        families: Kinds of models.
        count: Number of candidates.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(seed)
    defaults = [RaceCandidate(family, {}) for family in families]
    draws = (
        RaceCandidate(family, {name: _draw(space, rng) for name, space in SPACES[family].items()})
        for family, _ in zip(cycle(families), range(count - len(defaults)), strict=False)
    )
    return (*defaults, *draws)


def _draw(space: Space, rng: np.random.Generator) -> Parameter:
    if isinstance(space, Choice):
        return space.options[int(rng.integers(len(space.options)))]
    if isinstance(space, IntRange):
        return int(rng.integers(space.low, space.high + 1))
    if isinstance(space, LogUniform):
        # Three digits are as good, and can be read.
        return float(f"{np.exp(rng.uniform(np.log(space.low), np.log(space.high))):.3g}")
    return float(f"{rng.uniform(space.low, space.high):.3g}")
