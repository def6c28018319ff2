"""The processes that train one model together: what differs between one alone and many is here.

It knows torch.distributed and nothing of Ray, which only starts the processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

Saved = dict[str, Any]


class World:
    """One process alone."""

    rank = 0
    size = 1
    together = False
    """Whether a module can be called only by all workers at once."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")

    def seed(self, base: int) -> int:
        """One for each worker, and for each ``base``."""
        return base * self.size + self.rank

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose backward pass averages gradients over all workers."""
        return module

    @contextmanager
    def averaging(self, module: nn.Module, now: bool) -> Iterator[None]:
        """Whether backward passes inside average gradients, or only add them up."""
        yield

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over all workers, the same bits on each."""
        return tensor

    def gathered(self, value: Any) -> list[Any]:
        """The values of all workers by rank, on each."""
        return [value]

    def of_first(self, value: Any) -> Any:
        """The first worker's value, on each."""
        return value

    def even_out(self, module: nn.Module) -> None:
        """Give every worker the first one's buffers, such as the running means of batch norm."""

    def saved(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[Saved, Saved]:
        """What is known of both, whole, in memory of its own; on the first worker."""
        return ({}, {}) if self.rank else (on_cpu(module.state_dict()), on_cpu(optimiser.state_dict()))

    def weights(self, module: nn.Module) -> dict[str, torch.Tensor]:
        """The module's state, whole, in memory of its own; on the first worker."""
        return {} if self.rank else on_cpu(module.state_dict())

    def restore(self, module: nn.Module, optimiser: torch.optim.Optimizer, saved: tuple[Saved, Saved]) -> None:
        """Bring both back to what ``saved`` was, which every worker has."""
        module.load_state_dict(saved[0])
        optimiser.load_state_dict(saved[1])


class Replicas(World):
    """Processes of one torch.distributed group, each with the whole model (DDP; Li et al. 2020, arXiv:2006.15704)."""

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__(device)
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    def wrap(self, module: nn.Module) -> nn.Module:
        if self.size == 1:
            return module
        return DistributedDataParallel(module, device_ids=[self.device] if self.device.type == "cuda" else None)

    @contextmanager
    def averaging(self, module: nn.Module, now: bool) -> Iterator[None]:
        if now or not isinstance(module, DistributedDataParallel):
            yield
        else:
            with module.no_sync():
                yield

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def gathered(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def of_first(self, value: Any) -> Any:
        values = [value]
        distributed.broadcast_object_list(values)
        return values[0]

    def even_out(self, module: nn.Module) -> None:
        if self.size > 1:
            for buffer in module.buffers():
                distributed.broadcast(buffer, 0)


def on_cpu(value: Any) -> Any:
    """The same nest of dictionaries and lists, its tensors copied into memory of their own."""
    if isinstance(value, torch.Tensor):
        return torch.empty_like(value, device="cpu", memory_format=torch.contiguous_format).copy_(value.detach())
    if isinstance(value, dict):
        return {name: on_cpu(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_cpu(one) for one in value)
    return value
