"""Which parameters each kind of model accepts; known without importing PyTorch, which takes seconds."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from cluster.errors import ProjectError
from trainers.config import ModelSpec
from trainers.estimators import catalog
from trainers.trees.parameters import check_names

BUILT_IN: dict[str, tuple[str, ...]] = {
    "linear": ("embedding", "unknown"),
    "mlp": ("hidden", "dropout", "norm", "embedding", "unknown"),
    "ft_transformer": ("width", "blocks", "heads", "attention_dropout", "dropout", "unknown"),
}
"""Parameters of the built-in kinds, in the order of their signatures."""


def check_parameters(spec: ModelSpec, names: Iterable[str]) -> None:
    """Check that the model's builder accepts all parameters in ``names``.

    Raises:
        ProjectError: It does not accept one of them.
    """
    if spec.is_fixed or spec.is_auto:
        return  # they have no builder: rayloop.project checks an automatic one as a whole
    if not spec.is_module:
        (catalog.check_names if spec.is_estimator else check_names)(spec, names)
        return
    if isinstance(spec.build, str):
        offered = list(BUILT_IN[spec.build])
    else:
        accepted = inspect.signature(spec.build).parameters
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values()):
            return
        offered = list(accepted)[2:]
    for name in names:
        if name not in offered:
            raise ProjectError("project.unknown_model_parameter", model=spec.name, name=name, choices=offered)
