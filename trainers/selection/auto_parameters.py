"""Parameters of ``ModelSpec(build="auto")``, and the settings that a race leaves to the project."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, ValidationError

from cluster.errors import ProjectError
from cluster.values import Frozen
from trainers.config import Compression, ModelSpec, TrainConfig, TuneConfig

Family = Literal["lightgbm", "xgboost", "mlp", "linear"]
FAMILIES: tuple[Family, ...] = ("lightgbm", "xgboost", "mlp", "linear")
TRAIN_FIELDS = frozenset(
    {"seed", "workers", "threads", "cpus_per_worker", "cache_mib", "calibrate", "class_weights", "restarts"}
    | {"minority", "noise"}
)
"""Fields of TrainConfig that a project sets; the race chooses the others."""


class AutoParameters(Frozen):
    """What a race may try, and how many models may answer together."""

    families: tuple[Family, ...] = ()
    """Kinds of models to try; by default all that are installed."""
    members: int = Field(default=4, ge=1)
    """Most models whose scores are averaged; 1 serves a single model."""


def auto_parameters(spec: ModelSpec) -> AutoParameters:
    """The parameters of a spec of kind "auto", with defaults for those that it does not set.

    Raises:
        ProjectError: A parameter is unknown, or its value is not valid.
    """
    offered = list(AutoParameters.model_fields)
    for name in spec.parameters:
        if name not in offered:
            raise ProjectError("project.unknown_model_parameter", model=spec.name, name=name, choices=offered)
    try:
        return AutoParameters.model_validate(spec.parameters)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ProjectError(
            "project.setting_out_of_bounds", name=name, value=first["input"], reason=first["msg"]
        ) from error


def check_auto(
    spec: ModelSpec, config: TrainConfig, tuning: TuneConfig | None = None, compress: Iterable[Compression] = ()
) -> None:
    """Check the parameters, and that nothing else chooses what the race chooses.

    Args:
        spec: A spec of kind "auto".
        config: The training settings.
        tuning: The search over settings.
        compress: Steps to a smaller model.

    Raises:
        ProjectError: A parameter is not valid, or a setting contradicts the race.
    """
    auto_parameters(spec)
    default = TrainConfig()
    for name in TrainConfig.model_fields:
        # "auto" uses no GPU here, as False does.
        is_default = getattr(config, name) == getattr(default, name) or (name == "gpu" and config.gpu is False)
        if name not in TRAIN_FIELDS and not is_default:
            raise ProjectError("project.auto_chooses", what=f"TrainConfig({name}={getattr(config, name)!r})")
    if tuning is not None:
        raise ProjectError("project.auto_chooses", what="Project.tune")
    for step in compress:
        raise ProjectError("project.auto_chooses", what=f"a model {step.description}")
