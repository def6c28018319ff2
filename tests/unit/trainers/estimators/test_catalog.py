"""Which estimators of scikit-learn can be trained, and with which parameters and settings."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import pytest
from sklearn.base import is_classifier
from sklearn.utils.validation import has_fit_parameter

from cluster.errors import ProjectError
from tests.factories.errors import raises
from tests.factories.trainers.frames import TASKS
from trainers.config import Choice, IntRange, ModelSpec, Prune, TrainConfig, TuneConfig
from trainers.estimators.catalog import ESTIMATORS, check_task, create
from trainers.models import model_builder
from trainers.models.parameters import check_parameters
from trainers.trees.parameters import check_settings
from trainers.tuning.search_spaces import base_point

FOREST = ModelSpec(build="sklearn", parameters={"estimator": "sklearn.ensemble.RandomForestClassifier"})


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimator_takes_weights_and_is_for_tasks_of_its_kind(name: str) -> None:
    spec = ModelSpec(build="sklearn", parameters={"estimator": name})
    estimator = create(spec, seed=7, threads=2)
    assert has_fit_parameter(estimator, "sample_weight")
    assert estimator.get_params().get("random_state", 7) == 7
    mine, other = ("binary", "regression") if is_classifier(estimator) else ("regression", "multiclass")
    check_task(spec, TASKS[mine])
    with raises(ProjectError, "project.estimator_not_for_task", name=name, task_kind=other):
        check_task(spec, TASKS[other])


@pytest.mark.parametrize(
    "name", ["", "RandomForestClassifier", "sklearn.svm.SVC", "os.system", "sklearn.ensemble.NoSuchForest"]
)
def test_estimator_that_is_not_known_is_refused(name: str) -> None:
    spec = ModelSpec(build="sklearn", parameters={"estimator": name} if name else {})
    with raises(ProjectError, "project.unknown_estimator", name=name):
        check_parameters(spec, spec.parameters)
    with raises(ProjectError, "project.unknown_estimator", name=name):
        create(spec)


@pytest.mark.parametrize("name", ["depth", "random_state", "n_jobs", "class_weight", "warm_start"])
def test_parameter_that_the_estimator_lacks_or_training_sets_is_refused(name: str) -> None:
    check_parameters(FOREST, ["estimator", "max_depth"])
    with raises(ProjectError, "project.unknown_model_parameter", model="sklearn", name=name):
        check_parameters(FOREST, [name])


def test_value_that_the_estimator_does_not_take_is_refused() -> None:
    spec = ModelSpec(build="sklearn", parameters={**FOREST.parameters, "n_estimators": 0})
    with raises(ProjectError, "project.setting_out_of_bounds", name="estimator"):
        create(spec)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("sklearn.neural_network.MLPRegressor", {"loss": "poisson"}),
        ("sklearn.ensemble.RandomForestRegressor", {"criterion": "poisson"}),
    ],
)
def test_loss_of_counts_is_refused_because_labels_are_standardized(name: str, parameters: dict[str, str]) -> None:
    with raises(ProjectError, "project.setting_out_of_bounds", name=next(iter(parameters)), value="poisson"):
        create(ModelSpec(build="sklearn", parameters={"estimator": name, **parameters}))


@pytest.mark.parametrize("changes", [{"patience": 5}, {"epochs": 5}, {"lr": 0.1}, {"quantize": "int8"}])
def test_setting_without_a_meaning_for_estimators_is_refused(changes: dict[str, Any]) -> None:
    check_settings(FOREST, TrainConfig(seed=3, threads=2, class_weights="balanced", calibrate="temperature"))
    with raises(ProjectError, "project.setting_not_for_trees", name=next(iter(changes)), model="sklearn"):
        check_settings(FOREST, TrainConfig(**changes))


def test_compression_of_an_estimator_is_refused() -> None:
    with raises(ProjectError, "project.compressed_trees", model="sklearn"):
        check_settings(FOREST, TrainConfig(), compress=(Prune(share=0.5),))


def test_search_starts_from_the_parameters_of_the_estimator() -> None:
    space = {"n_estimators": IntRange(low=50, high=200), "max_features": Choice(options=("sqrt", "log2"))}
    check_settings(FOREST, TrainConfig(), TuneConfig(space=space))
    assert base_point(space, FOREST, TrainConfig()) == {"n_estimators": 100, "max_features": "sqrt"}
    others = TuneConfig(space={"estimator": Choice(options=("sklearn.linear_model.Ridge",))})
    with raises(ProjectError, "project.setting_not_for_trees", name="estimator"):
        check_settings(FOREST, TrainConfig(), others)


def test_package_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model_builder.check(FOREST, None, TASKS["binary"])  # type: ignore[arg-type]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with raises(ProjectError, "project.library_missing", model="sklearn", package="skops"):
        create(FOREST)


def test_names_of_estimators_are_known_without_importing_scikit_learn() -> None:
    code = "import sys, trainers.estimators.catalog; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
