"""On a GPU: batches arrive as they were, and it learns in every precision."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from features.encoding import Encoder
from tests.trainers.frames import COLUMNS, TASKS, frame, part, rows
from trainers import loop
from trainers.config import ModelSpec, Precision, TrainConfig
from trainers.feed import Batch, MemoryFeed, MemoryHeldOut
from trainers.inputs import InputSpec
from trainers.job import Job
from trainers.transfer import transferred
from trainers.world import World

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

DEVICE = torch.device("cuda")


def _batches(count: int) -> Iterator[Batch]:
    for i in range(count):
        yield Batch(torch.full((4, 2), float(i)), torch.full((4, 1), i), torch.full((4,), float(i)))


def test_batches_arrive_in_order_as_they_were() -> None:
    for i, batch in enumerate(transferred(_batches(50), DEVICE)):
        assert batch.numbers.device.type == "cuda"
        assert batch.labels.tolist() == [float(i)] * 4
        assert batch.codes.dtype == torch.int64


def test_an_error_of_the_feed_reaches_the_training() -> None:
    def broken() -> Iterator[Batch]:
        yield from _batches(3)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(transferred(broken(), DEVICE))


def test_a_reader_that_stops_early_leaves_no_thread_waiting() -> None:
    batches = transferred(_batches(100), DEVICE)
    next(batches)
    batches.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_it_learns(precision: Precision) -> None:
    table = frame()
    encoder = Encoder.fit(COLUMNS, part(table, "train"))
    train, held = rows(part(table, "train"), encoder), rows(part(table, "validation"), encoder)
    arrays = {"numbers": train.numbers, "codes": train.codes}
    inputs = InputSpec.fit(encoder, TASKS["binary"], arrays, train.labels)
    config = TrainConfig(epochs=25, batch_size=64, lr=1e-2, workers=1, precision=precision)
    job, feed = Job(ModelSpec(), config, TASKS["binary"], inputs), MemoryFeed(train, 64, 0)
    outcome = loop.train(job, feed, MemoryHeldOut(held), World(DEVICE), lambda epoch: None)
    assert outcome.best.metrics["auc"] > 0.9
    assert all(isinstance(value, np.ndarray) for value in outcome.state.values())
    assert sum(outcome.epochs[-1].seconds.values()) > 0
