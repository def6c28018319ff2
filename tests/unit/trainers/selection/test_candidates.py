"""Candidates of a race are valid models of their kinds, and drawn alike for the same seed."""

from __future__ import annotations

import pytest

from cluster.errors import ProjectError
from tests.factories.errors import raises
from trainers.config import Choice, Distill, ModelSpec, Oversample, TrainConfig, TuneConfig
from trainers.models.parameters import check_parameters
from trainers.selection.auto_parameters import FAMILIES, auto_parameters, check_auto
from trainers.selection.candidates import MAX_BATCH, MIN_BATCH, SPACES, propose
from trainers.trees.parameters import parameters_of

AUTO = ModelSpec(build="auto", minutes=1)


def test_candidates_begin_with_each_kind_as_it_is_and_are_valid() -> None:
    candidates = propose(FAMILIES, 60, seed=1)
    assert [c.family for c in candidates[:4]] == list(FAMILIES)
    assert not any(c.settings for c in candidates[:4])
    assert [c.family for c in candidates[4:8]] == list(FAMILIES)
    assert len(candidates) == 60
    for candidate in candidates[4:]:
        assert candidate.settings.keys() == SPACES[candidate.family].keys()
        spec, config = candidate.configure(TrainConfig(seed=5, workers=1, class_weights="balanced"), 10_000)
        check_parameters(spec, spec.parameters)
        if not spec.is_module:
            parameters_of(spec)
        assert (config.seed, config.class_weights) == (5, "balanced")


def test_candidates_repeat_for_a_seed_and_differ_for_another() -> None:
    one, again, other = (propose(FAMILIES, 20, seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other


@pytest.mark.parametrize(("rows", "batch"), [(100, MIN_BATCH), (10_000, 156), (1_000_000, MAX_BATCH)])
def test_batches_of_modules_grow_with_the_rows(rows: int, batch: int) -> None:
    net = next(c for c in propose(FAMILIES, 4, 0) if c.family == "mlp")
    assert net.configure(TrainConfig(), rows)[1].batch_size == batch


def test_auto_parameters_have_defaults_and_are_checked() -> None:
    assert auto_parameters(AUTO).members == 4
    chosen = AUTO.model_copy(update={"parameters": {"families": ("mlp", "linear"), "members": 1}})
    assert auto_parameters(chosen).families == ("mlp", "linear")
    for parameters, code in (
        ({"hidden": (8,)}, "project.unknown_model_parameter"),
        ({"families": ("catboost",)}, "project.setting_out_of_bounds"),
        ({"members": 0}, "project.setting_out_of_bounds"),
    ):
        with raises(ProjectError, code):
            check_auto(AUTO.model_copy(update={"parameters": parameters}), TrainConfig())


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"config": TrainConfig(epochs=9)}, "TrainConfig(epochs=9)"),
        ({"config": TrainConfig(quantize="int8")}, "TrainConfig(quantize='int8')"),
        ({"config": TrainConfig(gpu=True)}, "TrainConfig(gpu=True)"),
        ({"tuning": TuneConfig(space={"lr": Choice(options=(0.1,))})}, "Project.tune"),
        ({"compress": (Distill(student=ModelSpec()),)}, "a model distilled into mlp"),
    ],
)
def test_what_else_would_choose_is_refused(changes: dict[str, object], what: str) -> None:
    arguments: dict[str, object] = {"config": TrainConfig(workers=4, threads=2, calibrate="temperature", gpu=False)}
    check_auto(AUTO, **arguments)  # type: ignore[arg-type]
    check_auto(AUTO, TrainConfig(minority=Oversample(), noise=0.1))
    with raises(ProjectError, "project.auto_chooses", what=what):
        check_auto(AUTO, **arguments | changes)  # type: ignore[arg-type]


def test_minutes_of_another_kind_are_refused() -> None:
    with raises(ProjectError, "project.minutes_not_for_model", model="mlp"):
        ModelSpec(minutes=5)
    assert ModelSpec(build="auto").minutes == 10
