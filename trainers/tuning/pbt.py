"""Population-based training (Jaderberg et al. 2017, arXiv:1711.09846): who goes on from whom, and with which settings.

Generations are in step: all members train the same number of epochs, then the worst take over weights and settings of the
best, and their settings are changed. Everything follows from results and a seed, so that a search that was killed goes on alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trainers.config import Choice, IntRange, LogUniform, Parameter, Space
from trainers.metrics import Primary
from trainers.tuning.trial import Trial, ranked

QUANTILE = 0.25
"""The share of members that copy, and that are copied."""
RESAMPLED = 0.25
"""How often a copied setting is drawn anew instead of being moved."""
FACTORS = (0.8, 1.2)

Settings = dict[str, Parameter]


def founders(spaces: Mapping[str, Space], start: Settings, count: int, seed: int) -> list[Settings]:
    """Settings of the first generation: ``start``, where there is one, and ``count`` in all."""
    random = np.random.default_rng([seed, 0])
    drawn = [{name: draw(space, random) for name, space in spaces.items()} for _ in range(count)]
    return [start, *drawn][:count] if start else drawn


def successors(
    members: Sequence[Trial], spaces: Mapping[str, Space], metric: Primary, seed: int, generation: int
) -> list[tuple[int, Settings]]:
    """For each member the number of the trial it goes on from, and its settings. Who failed copies whoever else fails to."""
    random = np.random.default_rng([seed, generation])
    able = ranked(members, metric)
    if not able:
        return []
    few = max(1, int(QUANTILE * len(members)))
    best = able[:few]
    kept = {t.number for t in able[: max(few, len(members) - few)]}

    def next_of(member: Trial) -> tuple[int, Settings]:
        if member.number in kept:
            return member.number, member.parameters
        parent = best[random.integers(len(best))]
        return parent.number, explored(parent.parameters, spaces, random)

    return [next_of(member) for member in members]


def explored(settings: Settings, spaces: Mapping[str, Space], random: np.random.Generator) -> Settings:
    """Each setting drawn anew, or moved: a number by one of FACTORS, a choice to a neighbour."""
    return {
        name: draw(space, random) if random.random() < RESAMPLED else _moved(settings[name], space, random)
        for name, space in spaces.items()
    }


def draw(space: Space, random: np.random.Generator) -> Parameter:
    if isinstance(space, Choice):
        return space.options[random.integers(len(space.options))]
    if isinstance(space, IntRange):
        return int(random.integers(space.low, space.high, endpoint=True))
    if isinstance(space, LogUniform):
        return float(np.exp(random.uniform(np.log(space.low), np.log(space.high))).clip(space.low, space.high))
    return float(random.uniform(space.low, space.high))


def _moved(value: Parameter, space: Space, random: np.random.Generator) -> Parameter:
    if isinstance(space, Choice):
        at = space.options.index(value) + random.choice([-1, 1])
        return space.options[int(np.clip(at, 0, len(space.options) - 1))]
    assert isinstance(value, int | float)
    moved = min(max(value * random.choice(FACTORS), space.low), space.high)
    return round(moved) if isinstance(space, IntRange) else float(moved)
