"""Batches on the training device."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Queue

import numpy as np
import torch

from trainers.data.batches import Batch, BatchLoader, EncodedRows, MemoryLoader

PREFETCH_BATCHES = 2
"""Batches that wait on the GPU for their step."""

RESIDENT_SHARE = 0.1
"""Share of a GPU's free memory that resident rows may use; the model comes later, and other processes share it."""


def to_device(loader: BatchLoader, device: torch.device) -> BatchLoader:
    """A loader of the same batches on ``device``.

    Rows in memory are copied to a GPU once if they fit, and batches are selected there: a small model keeps the CPU
    busier than the GPU, and this relieves it of selecting and copying. Other batches are copied while the GPU trains
    on earlier ones.
    """
    if device.type != "cuda":
        return loader
    if isinstance(loader, MemoryLoader) and isinstance(loader.source, EncodedRows) and _fits(loader.source, device):
        try:
            return loader.with_source(DeviceRows(loader.source, device))
        except torch.OutOfMemoryError:
            # Another process took the memory first.
            torch.cuda.empty_cache()
    return PrefetchLoader(loader, device)


def _fits(rows: EncodedRows, device: torch.device) -> bool:
    free, _ = torch.cuda.mem_get_info(device)
    return rows.nbytes <= RESIDENT_SHARE * free


class DeviceRows:
    """Rows in the memory of ``device``."""

    def __init__(self, rows: EncodedRows, device: torch.device) -> None:
        # Not from_numpy: arrays in Ray's object store are read-only, and torch would warn.
        self._rows = Batch(*(torch.tensor(part, device=device) for part in rows.arrays))

    def select(self, order: np.ndarray) -> Iterator[Batch]:
        for positions in torch.tensor(order, device=self._rows.labels.device):
            yield Batch(*(part.index_select(0, positions) for part in self._rows.tensors))


class PrefetchLoader:
    """Loader that copies batches to a GPU ahead of time, in a thread and from page-locked memory."""

    def __init__(self, loader: BatchLoader, device: torch.device) -> None:
        self._loader, self._device = loader, device
        self.steps, self.rows = loader.steps, loader.rows

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        return _prefetch(self._loader.epoch(number, first), self._device)


def _prefetch(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The thread copies on its own stream; the training stream waits only for the end of each copy."""
    ready: Queue[tuple[Batch, torch.cuda.Event] | BaseException | None] = Queue(maxsize=PREFETCH_BATCHES)
    stopped, stream = threading.Event(), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copy() -> None:
        try:
            for batch in batches:
                if stopped.is_set():
                    return
                with torch.cuda.stream(stream):
                    on_device = Batch(*(part.pin_memory().to(device, non_blocking=True) for part in batch.tensors))
                ready.put((on_device, stream.record_event()))
            ready.put(None)
        # Any error is raised in the training thread.
        except BaseException as error:
            ready.put(error)

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            batch, copied = item
            torch.cuda.current_stream(device).wait_event(copied)
            for part in batch.tensors:
                part.record_stream(torch.cuda.current_stream(device))
            yield batch
    finally:
        stopped.set()
        while thread.is_alive():
            while not ready.empty():
                ready.get_nowait()
            thread.join(timeout=0.01)
