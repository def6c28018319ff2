"""The estimators of scikit-learn that can be trained, by their names; known without importing scikit-learn."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Iterable
from typing import Any

from cluster.errors import ProjectError
from cluster.values import Task
from trainers.config import ModelSpec

ESTIMATOR = "estimator"
"""Parameter that names the estimator; the others are the estimator's own."""
FORESTS = tuple(
    f"sklearn.{forest}{kind}"
    for forest in ("ensemble.RandomForest", "ensemble.ExtraTrees", "tree.DecisionTree")
    for kind in ("Classifier", "Regressor")
)
"""Estimators that are trees, which take missing values and categories as they are."""
_CLASSIFIERS = ("sklearn.linear_model.LogisticRegression", "sklearn.neural_network.MLPClassifier")
_REGRESSORS = (
    "sklearn.linear_model.LinearRegression",
    "sklearn.linear_model.Ridge",
    "sklearn.linear_model.Lasso",
    "sklearn.linear_model.ElasticNet",
    "sklearn.linear_model.HuberRegressor",
    "sklearn.neural_network.MLPRegressor",
    "sklearn.svm.LinearSVR",
)
ESTIMATORS = (*FORESTS, *_CLASSIFIERS, *_REGRESSORS)
"""Names of all estimators."""
_SET_BY_TRAINING = ("class_weight", "n_jobs", "random_state", "verbose", "warm_start")
"""Parameters of estimators that follow from TrainConfig, or have no use."""


def estimator_name(spec: ModelSpec) -> str:
    """The name of the estimator.

    Raises:
        ProjectError: The model names none, or one that is not known.
    """
    name = spec.parameters.get(ESTIMATOR, "")
    if name not in ESTIMATORS:
        raise ProjectError("project.unknown_estimator", name=name, choices=ESTIMATORS)
    return str(name)


def is_forest(spec: ModelSpec) -> bool:
    """Whether the estimator consists of trees."""
    return estimator_name(spec) in FORESTS


def check_task(spec: ModelSpec, task: Task) -> None:
    """Check that the estimator predicts what the task asks for: classes, or a number.

    Raises:
        ProjectError: It does not.
    """
    name = estimator_name(spec)
    is_classifier = name.endswith("Classifier") or name in _CLASSIFIERS
    if is_classifier == (task.kind == "regression"):
        raise ProjectError("project.estimator_not_for_task", name=name, task_kind=task.kind)


def check_names(spec: ModelSpec, names: Iterable[str]) -> None:
    """Check that the estimator has all parameters in ``names``.

    Raises:
        ProjectError: It does not have one of them.
    """
    known = inspect.signature(_class_of(spec)).parameters
    offered = [ESTIMATOR, *(name for name in known if name not in _SET_BY_TRAINING)]
    for name in names:
        if name not in offered:
            raise ProjectError("project.unknown_model_parameter", model=spec.name, name=name, choices=offered)


def create(spec: ModelSpec, seed: int = 0, threads: int = 1) -> Any:
    """The estimator before it is fitted.

    Args:
        spec: The model.
        seed: Seed of its random numbers.
        threads: Its threads.

    Raises:
        ProjectError: A parameter is unknown, or its value is not valid; or skops is missing.
    """
    if importlib.util.find_spec("skops") is None:
        raise ProjectError("project.library_missing", model=spec.name, package="skops")
    check_names(spec, spec.parameters)
    parameters = {name: value for name, value in spec.parameters.items() if name != ESTIMATOR}
    estimator = _class_of(spec)(**parameters)
    for name in ("loss", "criterion"):
        if getattr(estimator, name, "") == "poisson":
            reason = "labels are standardized, so that some are negative"
            raise ProjectError("project.setting_out_of_bounds", name=name, value="poisson", reason=reason)
    ours = {"random_state": seed} | ({"n_jobs": threads} if "ensemble" in estimator_name(spec) else {})
    estimator.set_params(**{name: value for name, value in ours.items() if name in estimator.get_params()})
    try:
        estimator._validate_params()
    except ValueError as error:
        raise ProjectError(
            "project.setting_out_of_bounds", name=ESTIMATOR, value=estimator_name(spec), reason=str(error)
        ) from error
    return estimator


def effective_parameters(spec: ModelSpec) -> dict[str, Any]:
    """Parameters of the model: those of ``spec``, and the estimator's defaults for the others."""
    return {**_class_of(spec)().get_params(), **spec.parameters}


def _class_of(spec: ModelSpec) -> type[Any]:
    module, _, name = estimator_name(spec).rpartition(".")
    # scikit-learn takes a second to import, and few projects need it.
    return getattr(importlib.import_module(module), name)
