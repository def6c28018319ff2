"""Training settings: invalid ones are refused before work starts, and chosen values are applied."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cluster.errors import ProjectError
from cluster.values import Frozen
from tests.factories.errors import raises
from trainers.config import Choice, IntRange, LogUniform, ModelSpec, TrainConfig, TuneConfig, Uniform, apply_settings
from trainers.tuning.search_spaces import decode, to_distribution


class Small:
    """Stands for a user's module: the settings are applied without building it."""


def test_apply_settings_sets_config_fields_and_model_parameters() -> None:
    spec, config = apply_settings(ModelSpec(build=Small, parameters={"a": 1}), TrainConfig(), {"lr": 0.5, "width": 4})
    assert config == TrainConfig(lr=0.5)
    assert spec.parameters == {"a": 1, "width": 4}
    assert spec.name == "Small"


def test_apply_settings_out_of_bounds_is_refused() -> None:
    with raises(ProjectError, "project.setting_out_of_bounds", name="lr", value=-1.0):
        apply_settings(ModelSpec(), TrainConfig(), {"lr": -1.0})


def test_batch_smaller_than_workers_is_refused() -> None:
    with raises(ProjectError, "project.batch_smaller_than_workers", batch_size=2, workers=4):
        TrainConfig(batch_size=2, workers=4)


@pytest.mark.parametrize("space", [Uniform(low=1, high=1), LogUniform(low=2, high=1), IntRange(low=3, high=2)])
def test_empty_search_range_is_refused(space: Uniform | LogUniform | IntRange) -> None:
    with raises(ProjectError, "project.empty_search_range", name="width"):
        TuneConfig(space={"width": space})


def test_config_is_immutable() -> None:
    with pytest.raises(ValidationError):
        TrainConfig().lr = 1.0  # type: ignore[misc]


def test_search_spaces_convert_to_optuna_and_back() -> None:
    spaces = {
        "hidden": Choice(options=((8,), (16, 8))),
        "lr": LogUniform(low=1e-3, high=1),
        "n": IntRange(low=1, high=3),
    }
    forms = {name: to_distribution(space) for name, space in spaces.items()}
    assert forms["lr"].log
    assert (forms["n"].low, forms["n"].high) == (1, 3)
    assert decode(spaces, {"hidden": 1, "lr": 0.5, "n": 2}) == {"hidden": (16, 8), "lr": 0.5, "n": 2}


@pytest.mark.parametrize(
    ("kind", "required", "name", "allowed", "refused"),
    [
        (TrainConfig, {}, "patience", 0, -1),
        (TrainConfig, {}, "seed", 0, -1),
        (TrainConfig, {}, "cpus_per_worker", 0.5, 0.0),
        (TrainConfig, {}, "checkpoint_epochs", 0, -1),
        (TrainConfig, {}, "restarts", 0, -1),
        (TuneConfig, {"space": {}}, "reduction", 2, 1),
        (TuneConfig, {"space": {}}, "seed", 0, -1),
        (LogUniform, {"high": 1.0}, "low", 1e-9, 0.0),
    ],
)
def test_setting_is_refused_just_outside_its_bound(
    kind: type[Frozen], required: dict[str, object], name: str, allowed: float, refused: float
) -> None:
    assert getattr(kind.model_validate({**required, name: allowed}), name) == allowed
    with pytest.raises(ValidationError, match=name):
        kind.model_validate({**required, name: refused})


def test_default_settings_are_within_their_bounds() -> None:
    assert TrainConfig.model_validate(TrainConfig().model_dump()) == TrainConfig()
    tune = TuneConfig(space={})
    assert TuneConfig.model_validate(tune.model_dump()) == tune


def test_training_by_default_checkpoints_each_epoch_restarts_twice_and_keeps_its_workers() -> None:
    config = TrainConfig()
    assert (config.checkpoint_epochs, config.restarts, config.min_workers) == (1, 2, 0)


@pytest.mark.parametrize(
    ("setting", "steps", "interval"),
    [(None, 100, 4), (None, 10, 1), (0, 100, 0), (7, 100, 7), (None, 1_000_000, 40_000)],
)
def test_checkpoints_by_default_cost_at_most_a_twenty_fifth_of_the_steps(
    setting: int | None, steps: int, interval: int
) -> None:
    assert TrainConfig(checkpoint_steps=setting).checkpoint_interval(steps) == interval


def test_only_fsdp_with_fp16_is_refused() -> None:
    assert TrainConfig(strategy="fsdp", precision="bf16").strategy == "fsdp"
    assert TrainConfig(strategy="ddp", precision="fp16").precision == "fp16"
    with raises(ProjectError, "project.unsupported_precision", precision="fp16", strategy="fsdp"):
        TrainConfig(strategy="fsdp", precision="fp16")
