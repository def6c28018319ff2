"""Batches on the device that trains."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Queue

import numpy as np
import torch

from trainers.data.batches import Batch, Feed, MemoryFeed, Rows

AHEAD = 2
"""Batches that wait on the GPU for their step."""


RESIDENT_SHARE = 0.1
"""Of a GPU's free memory, that rows may take which stay there: other processes may share it, and the model comes after them."""


def placed(feed: Feed, device: torch.device) -> Feed:
    """The same batches on ``device``.

    Rows in memory go to a GPU once, where they fit, and batches are picked there: the processor, which a small model keeps busier
    than the GPU, neither picks nor copies them. Others are copied while the GPU works on those before.
    """
    if device.type != "cuda":
        return feed
    if isinstance(feed, MemoryFeed) and isinstance(feed.source, Rows) and _fits(feed.source, device):
        try:
            return feed.over(Resident(feed.source, device))
        except torch.OutOfMemoryError:
            # Another process was faster.
            torch.cuda.empty_cache()
    return Prefetched(feed, device)


def _fits(rows: Rows, device: torch.device) -> bool:
    free, _ = torch.cuda.mem_get_info(device)
    return rows.nbytes <= RESIDENT_SHARE * free


class Resident:
    """Rows in the memory of ``device``."""

    def __init__(self, rows: Rows, device: torch.device) -> None:
        # Not from_numpy: arrays of Ray's object store cannot be written to, which torch would warn of.
        self._rows = Batch(*(torch.tensor(part, device=device) for part in (rows.numbers, rows.codes, rows.labels)))

    def __len__(self) -> int:
        return len(self._rows.labels)

    def picked(self, order: np.ndarray) -> Iterator[Batch]:
        for which in torch.tensor(order, device=self._rows.labels.device):
            yield Batch(*(part.index_select(0, which) for part in self._rows))


class Prefetched:
    """A feed whose batches wait on a GPU, copied from page-locked memory by a thread."""

    def __init__(self, feed: Feed, device: torch.device) -> None:
        self._feed, self._device = feed, device

    @property
    def steps(self) -> int:
        return self._feed.steps

    @property
    def rows(self) -> int:
        return self._feed.rows

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        return _prefetched(self._feed.epoch(number, first), self._device)


def _prefetched(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The thread copies on a stream of its own; the stream that trains waits for each copy's end, and no longer."""
    ready: Queue[tuple[Batch, torch.cuda.Event] | BaseException | None] = Queue(maxsize=AHEAD)
    stopped, stream = threading.Event(), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copy() -> None:
        try:
            for batch in batches:
                if stopped.is_set():
                    return
                with torch.cuda.stream(stream):
                    there = Batch(*(part.pin_memory().to(device, non_blocking=True) for part in batch))
                ready.put((there, stream.record_event()))
            ready.put(None)
        # Whatever it is, it belongs to the thread that trains.
        except BaseException as error:
            ready.put(error)

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    try:
        while (found := ready.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            batch, copied = found
            torch.cuda.current_stream(device).wait_event(copied)
            for part in batch:
                part.record_stream(torch.cuda.current_stream(device))
            yield batch
    finally:
        stopped.set()
        while thread.is_alive():
            _drain(ready)
            thread.join(timeout=0.01)


def _drain(queue: Queue[tuple[Batch, torch.cuda.Event] | BaseException | None]) -> None:
    while not queue.empty():
        queue.get_nowait()
