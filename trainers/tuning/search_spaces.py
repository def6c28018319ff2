"""Declared search spaces in Optuna's form, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from trainers.config import Choice, IntRange, LogUniform, ModelSpec, Parameter, Space, TrainConfig
from trainers.models import registry

Spaces = Mapping[str, Space]


def distribution(space: Space) -> BaseDistribution:
    """Optuna's form of a declared space. A Choice is searched by position: its options need not be scalars."""
    if isinstance(space, Choice):
        return CategoricalDistribution(range(len(space.options)))
    if isinstance(space, IntRange):
        return IntDistribution(space.low, space.high)
    return FloatDistribution(space.low, space.high, log=isinstance(space, LogUniform))


def decoded(spaces: Spaces, chosen: Mapping[str, Any]) -> dict[str, Parameter]:
    """What Optuna chose, as values of the declared spaces."""
    return {
        name: space.options[chosen[name]] if isinstance(space, Choice) else chosen[name]
        for name, space in spaces.items()
    }


def encoded(spaces: Spaces, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the declared spaces in Optuna's form; empty unless all of them are there and lie in their space."""
    if not all(_holds(space, parameters.get(name)) for name, space in spaces.items()):
        return {}
    return {
        name: space.options.index(parameters[name]) if isinstance(space, Choice) else parameters[name]
        for name, space in spaces.items()
    }


def start(spaces: Spaces, spec: ModelSpec, config: TrainConfig) -> dict[str, Parameter]:
    """The base values; empty unless all of them are known and lie in the space."""
    known = {**registry.parameters(spec), **config.model_dump()}
    return decoded(spaces, point) if (point := encoded(spaces, known)) else {}


def _holds(space: Space, value: Any) -> bool:
    if isinstance(space, Choice):
        return value in space.options
    return isinstance(value, int | float) and space.low <= value <= space.high
