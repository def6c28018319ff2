"""Declared spaces in Optuna's form, and values outside of them."""

from __future__ import annotations

import pytest

from trainers.config import Choice, IntRange, LogUniform, ModelSpec, Space, TrainConfig, Uniform
from trainers.tuning import search_spaces


def test_distributions_have_the_bounds_and_scale_of_their_space() -> None:
    integer, plain, log, choice = (
        search_spaces.to_distribution(space)
        for space in (
            IntRange(low=1, high=3),
            Uniform(low=0.5, high=2.0),
            LogUniform(low=1e-3, high=1.0),
            Choice(options=("a", "b")),
        )
    )
    assert type(integer).__name__ == "IntDistribution"
    assert (integer.low, integer.high) == (1, 3)
    assert [(each.low, each.high, each.log) for each in (plain, log)] == [(0.5, 2.0, False), (1e-3, 1.0, True)]
    assert choice.choices == (0, 1)


@pytest.mark.parametrize("space", [Uniform(low=1, high=3), IntRange(low=1, high=3), LogUniform(low=1, high=3)])
def test_encode_value_outside_its_range_is_empty(space: Space) -> None:
    assert [bool(search_spaces.encode({"x": space}, {"x": value})) for value in (0.9, 1, 3, 3.1)] == [
        False,
        True,
        True,
        False,
    ]


def test_encode_missing_value_or_unknown_option_is_empty() -> None:
    assert search_spaces.encode({"x": Uniform(low=0, high=1)}, {}) == {}
    assert search_spaces.encode({"x": Uniform(low=0, high=1)}, {"x": "0.5"}) == {}
    assert search_spaces.encode({"x": Choice(options=("a", "b"))}, {"x": "c"}) == {}
    assert search_spaces.encode({"x": Choice(options=("a", "b"))}, {"x": "b"}) == {"x": 1}


def test_base_point_takes_defaults_of_model_and_training() -> None:
    spaces = {"lr": LogUniform(low=1e-4, high=1e-1), "dropout": Uniform(low=0.0, high=0.5)}
    assert search_spaces.base_point(spaces, ModelSpec(parameters={"dropout": 0.3}), TrainConfig(lr=0.01)) == {
        "lr": 0.01,
        "dropout": 0.3,
    }
    assert search_spaces.base_point(spaces, ModelSpec(), TrainConfig(lr=0.5)) == {}
