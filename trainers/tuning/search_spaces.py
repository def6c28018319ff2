"""Conversion of declared search spaces to and from Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from trainers.config import Choice, IntRange, LogUniform, ModelSpec, Parameter, Space, TrainConfig
from trainers.models import model_builder

Spaces = Mapping[str, Space]


def to_distribution(space: Space) -> BaseDistribution:
    """The Optuna distribution of a declared space. A Choice is encoded by position: options need not be scalars."""
    if isinstance(space, Choice):
        return CategoricalDistribution(range(len(space.options)))
    if isinstance(space, IntRange):
        return IntDistribution(space.low, space.high)
    return FloatDistribution(space.low, space.high, log=isinstance(space, LogUniform))


def decode(spaces: Spaces, proposal: Mapping[str, Any]) -> dict[str, Parameter]:
    """Values of the declared spaces from those that Optuna proposed."""
    return {
        name: space.options[proposal[name]] if isinstance(space, Choice) else proposal[name]
        for name, space in spaces.items()
    }


def encode(spaces: Spaces, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Values in Optuna's form; empty unless all are present and within their space."""
    if not all(_contains(space, parameters.get(name)) for name, space in spaces.items()):
        return {}
    return {
        name: space.options.index(parameters[name]) if isinstance(space, Choice) else parameters[name]
        for name, space in spaces.items()
    }


def base_point(spaces: Spaces, spec: ModelSpec, config: TrainConfig) -> dict[str, Parameter]:
    """The base values of a search; empty unless all are present and within their space."""
    base = {**model_builder.effective_parameters(spec), **dict(config)}
    return decode(spaces, point) if (point := encode(spaces, base)) else {}


def _contains(space: Space, value: Any) -> bool:
    if isinstance(space, Choice):
        return value in space.options
    return isinstance(value, int | float) and space.low <= value <= space.high
