"""The group of processes that train one model: a single process, or data-parallel ones.

It uses torch.distributed and knows nothing of Ray, which only starts the processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

StateDict = dict[str, Any]


class ProcessGroup:
    """A single process.

    Args:
        device: Where the model trains; the CPU by default.
    """

    rank = 0
    size = 1
    collective_forward = False
    """Whether all workers must call the module at the same time."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")

    def worker_seed(self, base: int) -> int:
        """A seed that differs between workers and between values of ``base``."""
        return base * self.size + self.rank

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, wrapped so that its backward pass averages gradients over all workers."""
        return module

    @contextmanager
    def gradient_sync(self, module: nn.Module, enabled: bool) -> Iterator[None]:
        """Whether backward passes inside average gradients over workers, or only accumulate them."""
        yield

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over all workers, the same bits on each."""
        return tensor

    def all_gather(self, value: Any) -> list[Any]:
        """The values of all workers by rank, on each."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """The first worker's value, on each."""
        return value

    def sync_buffers(self, module: nn.Module) -> None:
        """Copy the first worker's buffers, such as the running means of batch norm, to all workers."""

    def state_dicts(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[StateDict, StateDict]:
        """Complete state of module and optimizer on the first worker, in separate memory; empty on the others."""
        return ({}, {}) if self.rank else (copy_to_cpu(module.state_dict()), copy_to_cpu(optimizer.state_dict()))

    def module_state(self, module: nn.Module) -> dict[str, torch.Tensor]:
        """Complete state of the module on the first worker, in separate memory; empty on the others."""
        return {} if self.rank else copy_to_cpu(module.state_dict())

    def load_state_dicts(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, states: tuple[StateDict, StateDict]
    ) -> None:
        """Restore module and optimizer from ``states``, which every worker passes."""
        module.load_state_dict(states[0])
        optimizer.load_state_dict(states[1])


class DDPGroup(ProcessGroup):
    """Processes of one torch.distributed group, each with the whole model (DDP; Li et al. 2020, arXiv:2006.15704)."""

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__(device)
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    def wrap(self, module: nn.Module) -> nn.Module:
        if self.size == 1:
            return module
        return DistributedDataParallel(module, device_ids=[self.device] if self.device.type == "cuda" else None)

    @contextmanager
    def gradient_sync(self, module: nn.Module, enabled: bool) -> Iterator[None]:
        if enabled or not isinstance(module, DistributedDataParallel):
            yield
        else:
            with module.no_sync():
                yield

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def all_gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        values = [value]
        distributed.broadcast_object_list(values)
        return values[0]

    def sync_buffers(self, module: nn.Module) -> None:
        if self.size > 1:
            for buffer in module.buffers():
                distributed.broadcast(buffer, 0)


def copy_to_cpu(value: Any) -> Any:
    """Copy nested dictionaries, lists and tuples; tensors are copied to separate memory on the CPU."""
    if isinstance(value, torch.Tensor):
        return torch.empty_like(value, device="cpu", memory_format=torch.contiguous_format).copy_(value.detach())
    if isinstance(value, dict):
        return {name: copy_to_cpu(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copy_to_cpu(item) for item in value)
    return value
