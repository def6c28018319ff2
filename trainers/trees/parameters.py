"""Parameters of boosted trees, under the names that their libraries have for them, and the settings that apply."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, ValidationError

from cluster.errors import ProjectError
from cluster.values import Frozen
from trainers.config import Compression, ModelSpec, TrainConfig, TuneConfig

TRAIN_FIELDS = frozenset(
    {"patience", "seed", "workers", "threads", "cpus_per_worker", "gpu", "cache_mib", "calibrate", "class_weights"}
    | {"restarts", "batch_size", "epochs", "minority", "noise"}
)
"""Fields of TrainConfig that trees and estimators have a use for; "epochs" and "batch_size" only at their defaults, and
so "patience" of an estimator."""
BLOCKS = 50
"""Most evaluations of a training: after each block of rounds the validation rows are scored."""
PATIENCE = 50
"""Rounds without a better validation metric after which training stops, unless ``TrainConfig.patience`` is set."""


class BoostingParameters(Frozen):
    """Parameters that every library of boosted trees has.

    Rows and columns are sampled (``subsample``, ``colsample_bytree``); the libraries themselves use all of them.
    """

    rounds: int = Field(default=1000, ge=1)
    """Most boosting rounds; the validation rows decide how many the model keeps."""
    learning_rate: float = Field(default=0.05, gt=0)
    subsample: float = Field(default=0.8, gt=0, le=1)
    colsample_bytree: float = Field(default=0.8, gt=0, le=1)
    reg_alpha: float = Field(default=0.0, ge=0)

    @property
    def block(self) -> int:
        """Rounds between two evaluations."""
        return -(-self.rounds // BLOCKS)

    @property
    def blocks(self) -> int:
        """Evaluations of a training that does not stop early."""
        return -(-self.rounds // self.block)


class LightgbmParameters(BoostingParameters):
    """Parameters of LightGBM (https://lightgbm.readthedocs.io/en/stable/Parameters.html, by the names of its
    scikit-learn API)."""

    num_leaves: int = Field(default=31, ge=2)
    max_depth: int = Field(default=-1, ge=-1)
    min_child_samples: int = Field(default=20, ge=0)
    min_child_weight: float = Field(default=1e-3, ge=0)
    min_split_gain: float = Field(default=0.0, ge=0)
    reg_lambda: float = Field(default=0.0, ge=0)
    max_bin: int = Field(default=255, ge=2)
    cat_smooth: float = Field(default=10.0, ge=0)
    cat_l2: float = Field(default=10.0, ge=0)
    max_cat_threshold: int = Field(default=32, ge=1)
    min_data_per_group: int = Field(default=100, ge=1)
    extra_trees: bool = False


class XgboostParameters(BoostingParameters):
    """Parameters of XGBoost (https://xgboost.readthedocs.io/en/stable/parameter.html)."""

    max_depth: int = Field(default=6, ge=0)
    max_leaves: int = Field(default=0, ge=0)
    min_child_weight: float = Field(default=1.0, ge=0)
    gamma: float = Field(default=0.0, ge=0)
    reg_lambda: float = Field(default=1.0, ge=0)
    max_bin: int = Field(default=256, ge=2)
    max_cat_threshold: int = Field(default=64, ge=1)
    max_cat_to_onehot: int = Field(default=4, ge=1)
    grow_policy: Literal["depthwise", "lossguide"] = "depthwise"


_KINDS: dict[str, type[BoostingParameters]] = {"lightgbm": LightgbmParameters, "xgboost": XgboostParameters}


def parameters_of(spec: ModelSpec) -> BoostingParameters:
    """The parameters of a tree model, with defaults for those that ``spec`` does not set.

    Raises:
        ProjectError: A parameter is unknown, or its value is not valid.
    """
    check_names(spec, spec.parameters)
    try:
        return _parameters_class(spec).model_validate(spec.parameters)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ProjectError(
            "project.setting_out_of_bounds", name=name, value=first["input"], reason=first["msg"]
        ) from error


def check_names(spec: ModelSpec, names: Iterable[str]) -> None:
    """Check that the kind of model has all parameters in ``names``.

    Raises:
        ProjectError: It does not have one of them.
    """
    offered = list(_parameters_class(spec).model_fields)
    for name in names:
        if name not in offered:
            raise ProjectError("project.unknown_model_parameter", model=spec.name, name=name, choices=offered)


def check_settings(
    spec: ModelSpec, config: TrainConfig, tuning: TuneConfig | None = None, compress: Iterable[Compression] = ()
) -> None:
    """Check that no setting is changed that has no meaning for trees or estimators, and that nothing would compress
    them.

    Args:
        spec: The model.
        config: Its training settings.
        tuning: The search over both.
        compress: Steps to a smaller model.

    Raises:
        ProjectError: A setting has no meaning for this kind of model.
    """
    default = TrainConfig()
    at_default = {"epochs", "batch_size", "patience"} if spec.is_estimator else {"epochs", "batch_size"}
    for name in TrainConfig.model_fields:
        fixed = name not in TRAIN_FIELDS or name in at_default
        if (fixed or (name == "gpu" and config.gpu is True)) and getattr(config, name) != getattr(default, name):
            raise ProjectError("project.setting_not_for_trees", name=name, model=spec.name, value=getattr(config, name))
    for name in tuning.space if tuning else ():
        # Another estimator has other parameters, and may not be for the task.
        if name in TrainConfig.model_fields or (spec.is_estimator and name == "estimator"):
            raise ProjectError("project.setting_not_for_trees", name=name, model=spec.name, value="a search space")
    if tuning and tuning.method == "pbt":
        raise ProjectError("project.setting_not_for_trees", name="method", model=spec.name, value=tuning.method)
    for step in compress:
        require_module(spec, step)


def require_module(spec: ModelSpec, step: Compression) -> None:
    """Refuse a step to a smaller model that would compress trees, or train them as a student. Raises ProjectError."""
    if spec.is_python:
        raise ProjectError("project.python_is_fixed", what=step.description)
    if spec.is_imported:
        raise ProjectError("project.imported_is_fixed", what=step.description)
    if not spec.is_module:
        raise ProjectError("project.compressed_trees", model=spec.name, step=step.description)


def pool_workers(config: TrainConfig, workers: int) -> TrainConfig:
    """Settings of the one process that trains trees, with the CPUs and threads of ``workers`` workers."""
    return config.model_copy(
        update={
            "workers": 1,
            "threads": workers * config.threads,
            "cpus_per_worker": workers * config.cpus_per_worker,
            "gpu": False,
        }
    )


def _parameters_class(spec: ModelSpec) -> type[BoostingParameters]:
    return _KINDS[str(spec.build)]
