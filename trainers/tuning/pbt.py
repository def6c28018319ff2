"""Population-based training (Jaderberg et al. 2017, arXiv:1711.09846): selection and perturbation of members.

Generations are synchronous: all members train the same number of epochs, then the worst copy weights and settings of
the best, and their settings are perturbed. Everything follows from results and a seed, so a search that was killed
repeats its decisions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trainers.config import Choice, IntRange, LogUniform, Parameter, Space
from trainers.metrics import PrimaryMetric
from trainers.tuning.trial import Trial, rank_trials

QUANTILE = 0.25
"""Share of members that copy, and that are copied (truncation selection)."""
RESAMPLE_PROBABILITY = 0.25
"""Probability that a copied setting is sampled again instead of perturbed."""
PERTURB_FACTORS = (0.8, 1.2)
"""Factors by which numbers are perturbed."""

Settings = dict[str, Parameter]


def initial_population(spaces: Mapping[str, Space], start: Settings, count: int, seed: int) -> list[Settings]:
    """Settings of the first generation.

    Args:
        spaces: Search space of each setting.
        start: Settings of the first member; empty to sample them as well.
        count: Members.
        seed: Seed of the search.
    """
    random = np.random.default_rng([seed, 0])
    sampled = [{name: sample(space, random) for name, space in spaces.items()} for _ in range(count)]
    return [start, *sampled][:count] if start else sampled


def exploit(
    members: Sequence[Trial], spaces: Mapping[str, Space], metric: PrimaryMetric, seed: int, generation: int
) -> list[tuple[int, Settings]]:
    """Parent and settings of each member of the next generation. Members that failed copy one of the best.

    Args:
        members: Trials of the current generation.
        spaces: Search space of each setting.
        metric: Ranks the members.
        seed: Seed of the search.
        generation: Number of the next generation.

    Returns:
        For each member the number of the trial whose weights it continues from, and its settings; empty if all failed.
    """
    random = np.random.default_rng([seed, generation])
    ranking = rank_trials(members, metric)
    if not ranking:
        return []
    few = max(1, int(QUANTILE * len(members)))
    best = ranking[:few]
    survivors = {t.number for t in ranking[: max(few, len(members) - few)]}

    def next_of(member: Trial) -> tuple[int, Settings]:
        if member.number in survivors:
            return member.number, member.parameters
        parent = best[random.integers(len(best))]
        return parent.number, explore(parent.parameters, spaces, random)

    return [next_of(member) for member in members]


def explore(settings: Settings, spaces: Mapping[str, Space], random: np.random.Generator) -> Settings:
    """Sample each setting again, or perturb it: a number by one of PERTURB_FACTORS, a choice to a neighbor."""
    return {
        name: sample(space, random)
        if random.random() < RESAMPLE_PROBABILITY
        else _perturb(settings[name], space, random)
        for name, space in spaces.items()
    }


def sample(space: Space, random: np.random.Generator) -> Parameter:
    """A random value of ``space``."""
    if isinstance(space, Choice):
        return space.options[random.integers(len(space.options))]
    if isinstance(space, IntRange):
        return int(random.integers(space.low, space.high, endpoint=True))
    if isinstance(space, LogUniform):
        return float(np.exp(random.uniform(np.log(space.low), np.log(space.high))).clip(space.low, space.high))
    return float(random.uniform(space.low, space.high))


def _perturb(value: Parameter, space: Space, random: np.random.Generator) -> Parameter:
    if isinstance(space, Choice):
        at = space.options.index(value) + random.choice([-1, 1])
        return space.options[int(np.clip(at, 0, len(space.options) - 1))]
    assert isinstance(value, int | float)
    perturbed = min(max(value * random.choice(PERTURB_FACTORS), space.low), space.high)
    return round(perturbed) if isinstance(space, IntRange) else float(perturbed)
