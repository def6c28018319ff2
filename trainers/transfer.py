"""Batches on the device that trains."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Queue

import torch

from trainers.feed import Batch

AHEAD = 2
"""Batches that wait on the GPU for their step."""


def transferred(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches on ``device``. A GPU gets them from page-locked memory while it works on those before."""
    return _prefetched(batches, device) if device.type == "cuda" else batches


def _prefetched(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """A thread copies on a stream of its own; the stream that trains waits for each copy's end, and no longer."""
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
