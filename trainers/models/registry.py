"""Modules: ``forward(numbers, codes) -> logits`` with numbers float32 [n, k], codes int64 [n, c], logits [n, outputs].

A module takes the arrays of features/encoder.py as they are: NaN stands for missing, and scaling is its own
business. trainers/models/tabular_input.py does what most need.
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
from trainers.worker_errors import blamed

_BLOCK = 4
"""Modules of a layer of Mlp."""


class Linear(nn.Module):
    """Logistic, softmax or linear regression on TabularInput."""

    def __init__(self, inputs: InputSpec, task: Task, embedding: int = 8, unknown: float = 0.02) -> None:
        super().__init__()
        self.inputs = TabularInput(inputs, embedding, unknown)
        self.head = nn.Linear(self.inputs.width, task.outputs)

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.inputs(numbers, codes))
        return logits


class Mlp(nn.Module):
    """Fully connected layers on TabularInput: linear, ``norm`` ("batch", "layer", "none"), SiLU, dropout."""

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
        logits: torch.Tensor = self.head(self.body(self.inputs(numbers, codes)))
        return logits

    def prune(self, share: float) -> tuple[dict[str, Parameter], dict[str, torch.Tensor]]:
        """Parameters and state without ``share`` of the units of each layer, those that contribute least."""
        state = dict(self.state_dict())
        blocks = range(0, len(self.body), _BLOCK)
        after = [*(f"body.{at}" for at in blocks[1:]), "head"][: len(blocks)]
        sizes, kept = list[int](), None
        for at, following in zip(blocks, after, strict=True):
            weight = state[f"body.{at}.weight"]
            state[f"body.{at}.weight"] = weight if kept is None else weight[:, kept]
            kept = _strongest(self.body[at + 1], weight, state[f"{following}.weight"], share)
            for name in [name for name in state if name.startswith((f"body.{at}.", f"body.{at + 1}."))]:
                state[name] = state[name][kept] if state[name].ndim else state[name]
            sizes.append(len(kept))
        if kept is not None:
            state["head.weight"] = state["head.weight"][:, kept]
        return {"hidden": tuple(sizes)}, state


def _strongest(norm: nn.Module, into: torch.Tensor, out: torch.Tensor, share: float) -> torch.Tensor:
    """Positions of the units to keep, at least one: by the length of the weights that leave a unit, times its scale.

    Behind a norm the scale is that of the norm, whatever the weights before it (Liu et al. 2017, arXiv:1708.06519); without one, their
    length (Li et al. 2017, arXiv:1608.08710).
    """
    gain = norm.weight if isinstance(norm, nn.BatchNorm1d | nn.LayerNorm) else None
    scale = torch.linalg.vector_norm(into, dim=1) if gain is None else gain.detach().abs()
    count = max(1, round((1 - share) * len(scale)))
    kept: torch.Tensor = (scale * torch.linalg.vector_norm(out, dim=0)).topk(count).indices
    return kept.sort().values


class Scored(nn.Module):
    """A module whose output is the scores of contracts.Task; ``temperature`` divides its logits (calibration.py)."""

    def __init__(self, module: nn.Module, task: Task, inputs: InputSpec, temperature: float = 1.0) -> None:
        super().__init__()
        self.module = module
        self.task = task
        self.scale = inputs.label_std
        self.shift = inputs.label_mean
        self.temperature = temperature
        self._shape = inputs.width, len(inputs.cardinalities)

    def blank(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs of one row of zeros."""
        width, codes = self._shape
        return torch.zeros(1, width, device=device), torch.zeros(1, codes, dtype=torch.int64, device=device)

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        logits = self.module(numbers, codes)
        # Left out of the graph where it does nothing.
        scores = losses.activate(self.task, logits / self.temperature if self.temperature != 1.0 else logits)
        return scores * self.scale + self.shift if self.task.kind == "regression" else scores


def build(spec: ModelSpec, inputs: InputSpec, task: Task) -> nn.Module:
    """The module that ``spec`` describes, its weights drawn from torch's generator. Raises ProjectError."""
    builder = _builder(spec)
    try:
        inspect.signature(builder).bind(inputs, task, **spec.parameters)
    except TypeError as error:
        raise ProjectError(f"model {spec.name!r} cannot be built with its parameters: {error}") from error
    module = builder(inputs, task, **spec.parameters)
    if not isinstance(module, nn.Module):
        raise ProjectError(f"model builder {spec.name!r} returned {type(module).__name__}", "return a torch.nn.Module")
    return module


def check(spec: ModelSpec, inputs: InputSpec, task: Task) -> None:
    """Build the module and give it two rows of zeros: what is wrong with it shows before workers are started, and tried again.

    Raises ProjectError.
    """
    module = build(spec, inputs, task).eval()
    rows = torch.zeros(2, inputs.width), torch.zeros(2, len(inputs.cardinalities), dtype=torch.int64)
    try:
        with torch.no_grad():
            logits = module(*rows)
    # A module of the user's own may fail in any way.
    except Exception as error:
        told = blamed("".join(traceback.format_exception(error)))
        raise ProjectError(f"model {spec.name!r} cannot score two rows of zeros: {told}") from error
    wanted, found = (2, task.outputs), tuple(getattr(logits, "shape", ()))
    if found != wanted:
        raise ProjectError(
            f"model {spec.name!r} gives logits of shape {found} for two rows", f"give {wanted}: [n, task.outputs]"
        )


def check_parameters(spec: ModelSpec, names: Iterable[str]) -> None:
    """Raise ProjectError naming the first of ``names`` that the model's builder does not take."""
    taken = inspect.signature(_builder(spec)).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values()):
        return
    offered = list(taken)[2:]
    for name in names:
        if name not in offered:
            has = ", ".join(offered) or "none"
            raise ProjectError(f"model {spec.name!r} has no parameter {name!r}", f"it has {has}")


def parameters(spec: ModelSpec) -> dict[str, Any]:
    """The model's parameters: those of ``spec``, and the builder's defaults for the others."""
    taken = inspect.signature(_builder(spec)).parameters.values()
    return {p.name: p.default for p in taken if p.default is not inspect.Parameter.empty} | spec.parameters


def _builder(spec: ModelSpec) -> Callable[..., nn.Module]:
    built_in: dict[str, Callable[..., nn.Module]] = {"linear": Linear, "mlp": Mlp, "ft_transformer": FtTransformer}
    return built_in[spec.build] if isinstance(spec.build, str) else spec.build


def _norm(kind: str, size: int) -> nn.Module:
    kinds: dict[str, Callable[[int], nn.Module]] = {
        "batch": nn.BatchNorm1d,
        "layer": nn.LayerNorm,
        "none": lambda _: nn.Identity(),
    }
    if kind not in kinds:
        raise ProjectError(f"norm={kind!r} is not one of {', '.join(kinds)}")
    return kinds[kind](size)
