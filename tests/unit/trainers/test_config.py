"""Declared settings: what is refused before work starts, and where a chosen value goes."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cluster.errors import ProjectError
from tests.factories.trainers.frames import Small
from trainers.config import Choice, IntRange, LogUniform, ModelSpec, TrainConfig, TuneConfig, Uniform, applied
from trainers.tuning.search_spaces import decoded, distribution


def test_chosen_values_go_to_the_config_or_to_the_model() -> None:
    spec, config = applied(ModelSpec(build=Small, parameters={"a": 1}), TrainConfig(), {"lr": 0.5, "width": 4})
    assert config == TrainConfig(lr=0.5)
    assert spec.parameters == {"a": 1, "width": 4}
    assert spec.name == "Small"


def test_a_chosen_value_out_of_bounds_is_named() -> None:
    with pytest.raises(ProjectError, match="lr=-1"):
        applied(ModelSpec(), TrainConfig(), {"lr": -1.0})


def test_a_batch_smaller_than_the_workers_is_refused_with_both_settings() -> None:
    with pytest.raises(ProjectError, match=r"batch_size=2 .*workers=4"):
        TrainConfig(batch_size=2, workers=4)


@pytest.mark.parametrize("space", [Uniform(low=1, high=1), LogUniform(low=2, high=1), IntRange(low=3, high=2)])
def test_an_empty_range_is_refused_by_name(space: Uniform | LogUniform | IntRange) -> None:
    with pytest.raises(ProjectError, match="'width'"):
        TuneConfig(space={"width": space})


def test_values_are_immutable() -> None:
    with pytest.raises(ValidationError):
        TrainConfig().lr = 1.0  # type: ignore[misc]


def test_spaces_in_optunas_form_and_back() -> None:
    spaces = {
        "hidden": Choice(options=((8,), (16, 8))),
        "lr": LogUniform(low=1e-3, high=1),
        "n": IntRange(low=1, high=3),
    }
    forms = {name: distribution(space) for name, space in spaces.items()}
    assert forms["lr"].log
    assert (forms["n"].low, forms["n"].high) == (1, 3)
    assert decoded(spaces, {"hidden": 1, "lr": 0.5, "n": 2}) == {"hidden": (16, 8), "lr": 0.5, "n": 2}
