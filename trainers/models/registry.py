"""Built-in models, and how a model is built from its spec.

A model is a module with ``forward(numbers, codes) -> logits``: numbers float32 [n, k], codes int64 [n, c], logits
[n, outputs]. It takes the arrays of features/encoder.py unchanged: NaN marks a missing value, and the module scales its
inputs itself; trainers/models/tabular_input.py covers the usual cases.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from cluster.errors import ProjectError
from cluster.values import Task
from trainers import losses
from trainers.config import ModelSpec, Parameter
from trainers.input_spec import InputSpec
from trainers.models.ft_transformer import FtTransformer
from trainers.models.tabular_input import TabularInput
from trainers.worker_errors import error_origin

_BLOCK = 4
"""Submodules in each layer of Mlp."""


class Linear(nn.Module):
    """Logistic, softmax or linear regression on TabularInput."""

    def __init__(self, inputs: InputSpec, task: Task, embedding: int = 8, unknown: float = 0.02) -> None:
        super().__init__()
        self.inputs = TabularInput(inputs, embedding, unknown)
        self.head = nn.Linear(self.inputs.width, task.outputs)

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return self.head(self.inputs(numbers, codes))


class Mlp(nn.Module):
    """Fully connected layers on TabularInput, each linear, ``norm`` ("batch", "layer", "none"), SiLU, and dropout."""

    def __init__(
        self,
        inputs: InputSpec,
        task: Task,
        hidden: tuple[int, ...] = (256, 128),
        dropout: float = 0.2,
        norm: str = "batch",
        embedding: int = 8,
        unknown: float = 0.02,
    ) -> None:
        super().__init__()
        self.inputs = TabularInput(inputs, embedding, unknown)
        layers: list[nn.Module] = []
        width = self.inputs.width
        for size in hidden:
            layers += [nn.Linear(width, size), _norm(norm, size), nn.SiLU(), nn.Dropout(dropout)]
            width = size
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, task.outputs)

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.inputs(numbers, codes)))

    def prune(self, share: float) -> tuple[dict[str, Parameter], dict[str, torch.Tensor]]:
        """Remove the least important units of each layer.

        Args:
            share: Share of units to remove.

        Returns:
            Parameters and weights of the smaller model.
        """
        state = dict(self.state_dict())
        blocks = range(0, len(self.body), _BLOCK)
        after = [*(f"body.{at}" for at in blocks[1:]), "head"][: len(blocks)]
        sizes, units = list[int](), None
        for at, following in zip(blocks, after, strict=True):
            weight = state[f"body.{at}.weight"]
            state[f"body.{at}.weight"] = weight if units is None else weight[:, units]
            units = _select_units(self.body[at + 1], weight, state[f"{following}.weight"], share)
            for name in [name for name in state if name.startswith((f"body.{at}.", f"body.{at + 1}."))]:
                state[name] = state[name][units] if state[name].ndim else state[name]
            sizes.append(len(units))
        if units is not None:
            state["head.weight"] = state["head.weight"][:, units]
        return {"hidden": tuple(sizes)}, state


def _select_units(norm: nn.Module, into: torch.Tensor, out: torch.Tensor, share: float) -> torch.Tensor:
    """Positions of the units to keep, at least one, ranked by the norm of a unit's outgoing weights times its scale.

    The scale is that of a following norm layer, which makes the incoming weights irrelevant (Liu et al. 2017,
    arXiv:1708.06519); without one, the norm of the incoming weights (Li et al. 2017, arXiv:1608.08710).
    """
    gain = norm.weight if isinstance(norm, nn.BatchNorm1d | nn.LayerNorm) else None
    scale = torch.linalg.vector_norm(into, dim=1) if gain is None else gain.detach().abs()
    count = max(1, round((1 - share) * len(scale)))
    return (scale * torch.linalg.vector_norm(out, dim=0)).topk(count).indices.sort().values


class ScoringModule(nn.Module):
    """Wraps a model so that it outputs scores as cluster.values.Task describes.

    Args:
        module: The model.
        task: The task.
        inputs: Description of the inputs.
        temperature: Divides the logits (temperature scaling).
    """

    def __init__(self, module: nn.Module, task: Task, inputs: InputSpec, temperature: float = 1.0) -> None:
        super().__init__()
        self.module = module
        self.task = task
        self.scale = inputs.label_std
        self.shift = inputs.label_mean
        self.temperature = temperature
        self._shape = inputs.width, len(inputs.cardinalities)

    def zero_row(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs of a single row of zeros."""
        width, codes = self._shape
        return torch.zeros(1, width, device=device), torch.zeros(1, codes, dtype=torch.int64, device=device)

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        logits = self.module(numbers, codes)
        # The exported graph has no division without a temperature.
        scores = losses.activate(self.task, logits / self.temperature if self.temperature != 1.0 else logits)
        return scores * self.scale + self.shift if self.task.kind == "regression" else scores


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


def check(spec: ModelSpec, inputs: InputSpec, task: Task) -> None:
    """Build the model and score two rows of zeros, so that a fault shows before workers start and retry.

    Raises:
        ProjectError: The model cannot be built, fails, or returns logits of the wrong shape.
    """
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


def check_parameters(spec: ModelSpec, names: Iterable[str]) -> None:
    """Check that the model's builder accepts all parameters in ``names``.

    Raises:
        ProjectError: It does not accept one of them.
    """
    accepted = inspect.signature(_builder(spec)).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values()):
        return
    offered = list(accepted)[2:]
    for name in names:
        if name not in offered:
            raise ProjectError("project.unknown_model_parameter", model=spec.name, name=name, choices=offered)


def effective_parameters(spec: ModelSpec) -> dict[str, Any]:
    """Parameters of the model: those of ``spec``, and the builder's defaults for the others."""
    accepted = inspect.signature(_builder(spec)).parameters.values()
    return {p.name: p.default for p in accepted if p.default is not inspect.Parameter.empty} | spec.parameters


def _builder(spec: ModelSpec) -> Callable[..., nn.Module]:
    built_in: dict[str, Callable[..., nn.Module]] = {"linear": Linear, "mlp": Mlp, "ft_transformer": FtTransformer}
    return built_in[spec.build] if isinstance(spec.build, str) else spec.build


def _norm(kind: str, size: int) -> nn.Module:
    kinds: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": nn.Identity}
    if kind not in kinds:
        raise ProjectError("project.unknown_norm", norm=kind, choices=list(kinds))
    return kinds[kind](size)
