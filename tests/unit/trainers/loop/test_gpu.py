"""On a GPU: batches arrive unchanged, and training learns in every precision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from features.encoder import Encoder
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part
from tests.factories.trainers.training import rows
from trainers.config import ModelSpec, Precision, TrainConfig
from trainers.data import device_transfer
from trainers.data.batches import Batch, MemoryLoader, MemoryValidationLoader
from trainers.data.device_transfer import PrefetchLoader, to_device
from trainers.input_spec import InputSpec
from trainers.loop import train_loop
from trainers.loop.checkpointer import Checkpointer
from trainers.loop.process_group import ProcessGroup
from trainers.loop.train_events import TrainResult
from trainers.loop.train_spec import TrainSpec

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

DEVICE = torch.device("cuda")


class _Counted:
    """Batches of four rows with their numbers; after ``count`` batches it ends, or ``fails``."""

    def __init__(self, count: int, fails: bool = False) -> None:
        self.steps, self.rows, self._fails = count, 4 * count, fails

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        for i in range(first, self.steps):
            yield Batch(torch.full((4, 2), float(i)), torch.full((4, 1), i), torch.full((4,), float(i)))
        if self._fails:
            raise ValueError("no more")


def test_batches_on_gpu_keep_order_and_values() -> None:
    for i, batch in enumerate(to_device(_Counted(50), DEVICE).epoch(1)):
        assert batch.numbers.device.type == "cuda"
        assert batch.labels.tolist() == [float(i)] * 4
        assert batch.codes.dtype == torch.int64


def test_loader_error_reaches_the_training_thread() -> None:
    with pytest.raises(ValueError, match="no more"):
        list(to_device(_Counted(3, fails=True), DEVICE).epoch(1))


def test_closed_iterator_ends_the_copy_thread() -> None:
    batches = to_device(_Counted(100), DEVICE).epoch(1)
    next(batches)
    batches.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("share", [0.1, 0.0])
def test_batches_are_the_same_with_and_without_resident_rows(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_transfer, "RESIDENT_SHARE", share)
    table = frame()
    train_rows = rows(part(table, "train"), Encoder.fit(COLUMNS, part(table, "train")))
    for array in (train_rows.numbers, train_rows.codes, train_rows.labels):
        array.flags.writeable = False
    feed = MemoryLoader(train_rows, 64, 3, rank=1, workers=2)
    there = to_device(feed, DEVICE)
    assert isinstance(there, PrefetchLoader) == (share == 0.0)
    assert (there.steps, there.rows) == (feed.steps, feed.rows)
    for number, first in ((1, 0), (2, 3)):
        for ours, theirs in zip(feed.epoch(number, first), there.epoch(number, first), strict=True):
            for a, b in zip(ours, theirs, strict=True):
                torch.testing.assert_close(b.cpu(), a, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_training_on_gpu_learns(precision: Precision) -> None:
    table = frame()
    encoder = Encoder.fit(COLUMNS, part(table, "train"))
    train, validation = rows(part(table, "train"), encoder), rows(part(table, "validation"), encoder)
    arrays = {"numbers": train.numbers, "codes": train.codes}
    inputs = InputSpec.fit(encoder, TASKS["binary"], arrays, train.labels)
    config = TrainConfig(epochs=25, batch_size=64, lr=1e-2, workers=1, precision=precision)
    job, feed = TrainSpec(ModelSpec(), config, TASKS["binary"], inputs), MemoryLoader(train, 64, 0)
    outcome = train_loop.train(job, feed, MemoryValidationLoader(validation), ProcessGroup(DEVICE), lambda epoch: None)
    assert outcome.best.metrics["auc"] > 0.9
    assert all(isinstance(value, np.ndarray) for value in outcome.state.values())
    assert sum(outcome.epochs[-1].seconds.values()) > 0


def test_training_on_gpu_resumes_from_a_checkpoint(tmp_path: Path) -> None:
    table = frame()
    encoder = Encoder.fit(COLUMNS, part(table, "train"))
    train, validation = rows(part(table, "train"), encoder), rows(part(table, "validation"), encoder)
    inputs = InputSpec.fit(encoder, TASKS["binary"], {"numbers": train.numbers, "codes": train.codes}, train.labels)
    job = TrainSpec(ModelSpec(), TrainConfig(epochs=4, batch_size=64, workers=1), TASKS["binary"], inputs)

    def run(until: int) -> TrainResult:
        feed, world = MemoryLoader(train, 64, 0), ProcessGroup(DEVICE)
        checkpoints = Checkpointer(str(tmp_path))
        return train_loop.train(
            job,
            feed,
            MemoryValidationLoader(validation),
            world,
            lambda epoch: None,
            checkpointer=checkpoints,
            pause_after=until,
        )

    before, after = run(2), run(0)
    assert [epoch.number for epoch in after.epochs] == [1, 2, 3, 4]
    assert after.epochs[:2] == before.epochs
    assert after.epochs[-1].loss < before.epochs[-1].loss
