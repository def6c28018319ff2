"""Which loaders keep their rows on a GPU: tested without one, by its amount of free memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from trainers.data import device_transfer
from trainers.data.batches import Batch, BatchLoader, EncodedRows, MemoryLoader
from trainers.data.device_transfer import PrefetchLoader, to_device

CUDA = torch.device("cuda")
ROWS = EncodedRows(np.zeros((6, 2), np.float32), np.zeros((6, 1), np.int64), np.zeros(6, np.float32))


class _Streamed:
    """A loader whose rows are nowhere in memory."""

    rows, steps = 6, 2

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        return iter(())


def _loader_on_gpu(loader: BatchLoader, free: float, monkeypatch: pytest.MonkeyPatch) -> BatchLoader:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    monkeypatch.setattr(device_transfer, "DeviceRows", lambda rows, device: rows)
    return to_device(loader, CUDA)


@pytest.mark.parametrize(("spare", "resident"), [(0, True), (-10, False)])
def test_rows_stay_on_the_gpu_up_to_a_tenth_of_its_free_memory(
    spare: int, resident: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = _loader_on_gpu(MemoryLoader(ROWS, 3, 0), 10 * ROWS.nbytes + spare, monkeypatch)
    assert isinstance(loader, MemoryLoader) == resident
    assert isinstance(loader, PrefetchLoader) != resident
    assert (loader.rows, loader.steps) == (6, 2)


def test_streamed_rows_are_prefetched(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = _loader_on_gpu(_Streamed(), 1e12, monkeypatch)
    assert isinstance(loader, PrefetchLoader)
    assert (loader.rows, loader.steps) == (6, 2)


def test_loader_on_cpu_is_unchanged() -> None:
    loader = MemoryLoader(ROWS, 3, 0)
    assert to_device(loader, torch.device("cpu")) is loader
