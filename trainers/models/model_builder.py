"""Build a model from its spec, and check that a spec gives a working model.

A model is a module with ``forward(numbers, codes) -> logits``: numbers float32 [n, k], codes int64 [n, c], logits
[n, outputs]. It takes the arrays of features/encoder.py unchanged: NaN marks a missing value, and the module scales its
inputs itself; trainers/models/tabular_input.py covers the usual cases.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from cluster.errors import ProjectError
from cluster.values import Task
from trainers.config import ModelSpec
from trainers.estimators import catalog
from trainers.input_spec import InputSpec
from trainers.models.ft_transformer import FtTransformer
from trainers.models.linear import Linear
from trainers.models.mlp import Mlp
from trainers.trees.libraries import library_of
from trainers.trees.parameters import parameters_of
from trainers.worker_errors import error_origin


def build(spec: ModelSpec, inputs: InputSpec, task: Task) -> nn.Module:
    """Build the model that ``spec`` describes, with weights drawn from torch's global generator.

    Raises:
        ProjectError: The builder does not accept the parameters, or does not return a module.
    """
    builder = _builder(spec)
    try:
        inspect.signature(builder).bind(inputs, task, **spec.parameters)
    except TypeError as error:
        raise ProjectError("project.model_parameters", model=spec.name, reason=str(error)) from error
    module = builder(inputs, task, **spec.parameters)
    if not isinstance(module, nn.Module):
        raise ProjectError("project.not_a_module", model=spec.name, type=type(module).__name__)
    return module


def load(spec: ModelSpec, inputs: InputSpec, task: Task, state: Mapping[str, np.ndarray]) -> nn.Module:
    """A trained module from its weights, in evaluation mode."""
    module = build(spec, inputs, task)
    module.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in state.items()})
    return module.eval()


def check(spec: ModelSpec, inputs: InputSpec, task: Task) -> None:
    """Build the model and score two rows of zeros, so that a fault shows before workers start and retry.

    Trees and estimators have nothing to build: their parameters are checked, and that their library is installed.

    Raises:
        ProjectError: The model cannot be built, fails, or returns logits of the wrong shape.
    """
    if spec.is_estimator:
        catalog.check_task(spec, task)
        catalog.create(spec)
        return
    if not spec.is_module:
        parameters_of(spec)
        library_of(spec)
        return
    module = build(spec, inputs, task).eval()
    rows = torch.zeros(2, inputs.width), torch.zeros(2, len(inputs.cardinalities), dtype=torch.int64)
    try:
        with torch.no_grad():
            logits = module(*rows)
    # A user's module may fail in any way.
    except Exception as error:
        origin = error_origin("".join(traceback.format_exception(error)))
        raise ProjectError("project.model_fails", model=spec.name, origin=origin) from error
    expected, shape = (2, task.outputs), tuple(getattr(logits, "shape", ()))
    if shape != expected:
        raise ProjectError("project.logits_shape", model=spec.name, shape=shape, expected=expected)


def effective_parameters(spec: ModelSpec) -> dict[str, Any]:
    """Parameters of the model: those of ``spec``, and the builder's defaults for the others."""
    if spec.is_estimator:
        return catalog.effective_parameters(spec)
    if not spec.is_module:
        return parameters_of(spec).model_dump()
    accepted = inspect.signature(_builder(spec)).parameters.values()
    return {p.name: p.default for p in accepted if p.default is not inspect.Parameter.empty} | spec.parameters


def _builder(spec: ModelSpec) -> Callable[..., nn.Module]:
    built_in: dict[str, Callable[..., nn.Module]] = {"linear": Linear, "mlp": Mlp, "ft_transformer": FtTransformer}
    return built_in[spec.build] if isinstance(spec.build, str) else spec.build
