"""A multilayer perceptron (MLP), and the removal of its least important hidden units."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from cluster.errors import ProjectError
from cluster.values import Task
from trainers.config import Parameter
from trainers.input_spec import InputSpec
from trainers.models.tabular_input import TabularInput

_BLOCK = 4
"""Submodules in each layer of Mlp."""


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


def _norm(kind: str, size: int) -> nn.Module:
    kinds: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": nn.Identity}
    if kind not in kinds:
        raise ProjectError("project.unknown_norm", norm=kind, choices=list(kinds))
    return kinds[kind](size)
