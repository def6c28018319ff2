"""Workers that each hold a part of the model. A module of its own: to import it takes as long as half of torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from trainers.loop.process_group import Replicas, Saved, on_cpu

UNIT_PARAMETERS = 1 << 20
"""Modules with as many parameters are gathered on their own, so that never the whole model lies on one device."""

_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)
_FROM_FIRST = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


class Sharded(Replicas):
    """Processes of one group, each with a part of the parameters (FSDP; Zhao et al. 2023, arXiv:2304.11277)."""

    together = True

    def wrap(self, module: nn.Module) -> nn.Module:
        mesh = init_device_mesh(self.device.type, (self.size,))
        for unit in _units(module):
            fully_shard(unit, mesh=mesh)
        fully_shard(module, mesh=mesh)
        return module

    @contextmanager
    def averaging(self, module: nn.Module, now: bool) -> Iterator[None]:
        assert isinstance(module, FSDPModule)
        module.set_requires_gradient_sync(now)
        yield

    def saved(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[Saved, Saved]:
        self.even_out(module)
        whole = get_optimizer_state_dict(module, optimiser, options=_FULL)
        return self.weights(module), on_cpu(whole)

    def weights(self, module: nn.Module) -> dict[str, torch.Tensor]:
        whole: dict[str, torch.Tensor] = on_cpu(get_model_state_dict(module, options=_FULL))
        return whole

    def restore(self, module: nn.Module, optimiser: torch.optim.Optimizer, saved: tuple[Saved, Saved]) -> None:
        set_model_state_dict(module, saved[0], options=_FROM_FIRST)
        set_optimizer_state_dict(module, optimiser, saved[1], options=_FROM_FIRST)


def _units(module: nn.Module) -> list[nn.Module]:
    """Large modules below ``module``, inner ones first."""
    found: list[nn.Module] = []
    for child in module.children():
        if sum(p.numel() for p in child.parameters()) >= UNIT_PARAMETERS:
            found += [*_units(child), *([child] if not isinstance(child, nn.ModuleList) else [])]
    return found
