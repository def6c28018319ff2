"""Groups of processes: one alone, and two of which the other is imitated."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from trainers.loop.fsdp import FSDPGroup
from trainers.loop.process_group import DDPGroup, ProcessGroup


@pytest.fixture
def _world_of_one() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_process_alone_trains_on_the_cpu_and_is_its_own_group() -> None:
    group, value = ProcessGroup(), torch.tensor([2.0])
    assert group.device == torch.device("cpu")
    assert ProcessGroup(torch.device("meta")).device == torch.device("meta")
    assert (group.worker_seed(7), group.all_gather(3), group.broadcast(3)) == (7, [3], 3)
    assert group.all_reduce(value) is value


@pytest.mark.parametrize("size", [1, 2, 3])
def test_all_reduce_adds_values_of_all_workers(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed, "get_world_size", lambda: size)
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor: tensor.mul_(size))
    group = DDPGroup()
    assert group.all_reduce(torch.tensor([3.0])).tolist() == [3.0 * size]
    assert group.worker_seed(5) == 5 * size


@pytest.mark.usefixtures("_world_of_one")
def test_gradients_are_synchronized_only_where_enabled() -> None:
    group, plain = DDPGroup(), nn.Linear(2, 1)
    wrapped = DistributedDataParallel(plain)
    for enabled in (True, False):
        with group.gradient_sync(plain, enabled):
            pass
        with group.gradient_sync(wrapped, enabled):
            assert wrapped.require_backward_grad_sync == enabled
    assert wrapped.require_backward_grad_sync


@pytest.mark.usefixtures("_world_of_one")
def test_state_of_sharded_module_is_whole() -> None:
    plain = nn.Linear(2, 1)
    expected = {name: value.clone() for name, value in plain.state_dict().items()}
    group = FSDPGroup()
    module = group.wrap(plain)
    assert all(isinstance(value, DTensor) for value in module.state_dict().values())
    state = group.module_state(module)
    assert not any(isinstance(value, DTensor) for value in state.values())
    assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_only_sharded_modules_must_be_called_by_all_workers_together() -> None:
    """Each call gathers the parameters from all workers."""
    assert [kind.collective_forward for kind in (ProcessGroup, DDPGroup, FSDPGroup)] == [False, False, True]
