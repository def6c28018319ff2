"""Fully sharded data parallelism. A separate module, because importing it takes half as long as importing torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.checkpoint import state_dict as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from trainers.loop.process_group import DDPGroup, StateDict, copy_to_cpu

MIN_UNIT_PARAMETERS = 1 << 20
"""Modules with at least so many parameters are gathered separately, so that no device ever holds the whole model."""

_GATHER = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)
_BROADCAST = dcp.StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


class FSDPGroup(DDPGroup):
    """Processes of one group, each with a shard of the parameters (FSDP; Zhao et al. 2023, arXiv:2304.11277)."""

    collective_forward = True

    def wrap(self, module: nn.Module) -> nn.Module:
        mesh = init_device_mesh(self.device.type, (self.size,))
        for unit in shard_units(module):
            fully_shard(unit, mesh=mesh)
        fully_shard(module, mesh=mesh)
        return module

    @contextmanager
    def gradient_sync(self, module: nn.Module, enabled: bool) -> Iterator[None]:
        assert isinstance(module, FSDPModule)
        module.set_requires_gradient_sync(enabled)
        yield

    def state_dicts(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[StateDict, StateDict]:
        self.sync_buffers(module)
        state = dcp.get_optimizer_state_dict(module, optimizer, options=_GATHER)
        return self.module_state(module), copy_to_cpu(state)

    def module_state(self, module: nn.Module) -> dict[str, torch.Tensor]:
        return copy_to_cpu(dcp.get_model_state_dict(module, options=_GATHER))

    def load_state_dicts(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, states: tuple[StateDict, StateDict]
    ) -> None:
        dcp.set_model_state_dict(module, states[0], options=_BROADCAST)
        dcp.set_optimizer_state_dict(module, optimizer, states[1], options=_BROADCAST)


def shard_units(module: nn.Module) -> list[nn.Module]:
    """Large submodules, inner ones first."""
    units: list[nn.Module] = []
    for child in module.children():
        if sum(p.numel() for p in child.parameters()) >= MIN_UNIT_PARAMETERS:
            units += [*shard_units(child), *([child] if not isinstance(child, nn.ModuleList) else [])]
    return units
