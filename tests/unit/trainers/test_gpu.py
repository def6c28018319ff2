"""On a GPU: batches arrive as they were, and it learns in every precision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from features.encoder import Encoder
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part, rows
from trainers.config import ModelSpec, Precision, TrainConfig
from trainers.data import device_transfer
from trainers.data.batches import Batch, MemoryFeed, MemoryHeldOut
from trainers.data.device_transfer import Prefetched, placed
from trainers.input_spec import InputSpec
from trainers.loop import train_loop
from trainers.loop.checkpointer import Checkpoints
from trainers.loop.process_group import World
from trainers.loop.train_events import Outcome
from trainers.loop.train_spec import Job

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

DEVICE = torch.device("cuda")


class _Counted:
    """Batches of four rows that say which they are; after ``count`` of them it ends, or ``fails``."""

    def __init__(self, count: int, fails: bool = False) -> None:
        self.steps, self.rows, self._fails = count, 4 * count, fails

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        for i in range(first, self.steps):
            yield Batch(torch.full((4, 2), float(i)), torch.full((4, 1), i), torch.full((4,), float(i)))
        if self._fails:
            raise ValueError("no more")


def test_batches_arrive_in_order_as_they_were() -> None:
    for i, batch in enumerate(placed(_Counted(50), DEVICE).epoch(1)):
        assert batch.numbers.device.type == "cuda"
        assert batch.labels.tolist() == [float(i)] * 4
        assert batch.codes.dtype == torch.int64


def test_an_error_of_the_feed_reaches_the_training() -> None:
    with pytest.raises(ValueError, match="no more"):
        list(placed(_Counted(3, fails=True), DEVICE).epoch(1))


def test_a_reader_that_stops_early_leaves_no_thread_waiting() -> None:
    batches = placed(_Counted(100), DEVICE).epoch(1)
    next(batches)
    batches.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("share", [0.1, 0.0])
def test_batches_are_the_same_whether_rows_stay_on_the_gpu_or_not(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_transfer, "RESIDENT_SHARE", share)
    table = frame()
    held = rows(part(table, "train"), Encoder.fit(COLUMNS, part(table, "train")))
    for array in (held.numbers, held.codes, held.labels):
        array.flags.writeable = False
    feed = MemoryFeed(held, 64, 3, rank=1, workers=2)
    there = placed(feed, DEVICE)
    assert isinstance(there, Prefetched) == (share == 0.0)
    assert (there.steps, there.rows) == (feed.steps, feed.rows)
    for number, first in ((1, 0), (2, 3)):
        for ours, theirs in zip(feed.epoch(number, first), there.epoch(number, first), strict=True):
            for a, b in zip(ours, theirs, strict=True):
                torch.testing.assert_close(b.cpu(), a, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_it_learns(precision: Precision) -> None:
    table = frame()
    encoder = Encoder.fit(COLUMNS, part(table, "train"))
    train, held = rows(part(table, "train"), encoder), rows(part(table, "validation"), encoder)
    arrays = {"numbers": train.numbers, "codes": train.codes}
    inputs = InputSpec.fit(encoder, TASKS["binary"], arrays, train.labels)
    config = TrainConfig(epochs=25, batch_size=64, lr=1e-2, workers=1, precision=precision)
    job, feed = Job(ModelSpec(), config, TASKS["binary"], inputs), MemoryFeed(train, 64, 0)
    outcome = train_loop.train(job, feed, MemoryHeldOut(held), World(DEVICE), lambda epoch: None)
    assert outcome.best.metrics["auc"] > 0.9
    assert all(isinstance(value, np.ndarray) for value in outcome.state.values())
    assert sum(outcome.epochs[-1].seconds.values()) > 0


def test_it_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    table = frame()
    encoder = Encoder.fit(COLUMNS, part(table, "train"))
    train, held = rows(part(table, "train"), encoder), rows(part(table, "validation"), encoder)
    inputs = InputSpec.fit(encoder, TASKS["binary"], {"numbers": train.numbers, "codes": train.codes}, train.labels)
    job = Job(ModelSpec(), TrainConfig(epochs=4, batch_size=64, workers=1), TASKS["binary"], inputs)

    def run(until: int) -> Outcome:
        feed, world = MemoryFeed(train, 64, 0), World(DEVICE)
        checkpoints = Checkpoints(str(tmp_path))
        return train_loop.train(
            job, feed, MemoryHeldOut(held), world, lambda epoch: None, checkpoints=checkpoints, until=until
        )

    before, after = run(2), run(0)
    assert [epoch.number for epoch in after.epochs] == [1, 2, 3, 4]
    assert after.epochs[:2] == before.epochs
    assert after.epochs[-1].loss < before.epochs[-1].loss
