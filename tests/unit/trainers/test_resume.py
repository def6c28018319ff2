"""A training that is stopped at any step and goes on ends with the same weights, bit for bit, as one that was not."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from cluster.errors import DataError, RayloopError
from cluster.values import Task
from features.encoder import Encoder
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part, rows
from trainers.config import ModelSpec, TrainConfig
from trainers.data.batches import Batch, MemoryFeed, MemoryHeldOut, Rows
from trainers.input_spec import InputSpec
from trainers.loop import train_loop
from trainers.loop.checkpointer import Checkpoints, loaded
from trainers.loop.process_group import World
from trainers.loop.train_events import Outcome, Pulse
from trainers.loop.train_spec import Job

STEPS = 5
"""In an epoch."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As in a worker; several would wait for one another longer than so small a module takes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Stopped(Exception):
    """What stands for the end of the process."""


class StoppingFeed(MemoryFeed):
    """Ends the training before step ``stop``, counted from where it went on."""

    stop = -1

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        for batch in super().epoch(number, first):
            if self.stop == 0:
                raise Stopped
            self.stop -= 1
            yield batch


class Moody(nn.Module):
    """Draws from every generator that a module may draw from."""

    def __init__(self, inputs: InputSpec, task: Task) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inputs.width, 4), nn.BatchNorm1d(4), nn.Dropout(0.3))
        self.head = nn.Linear(4, task.outputs)

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        noise = 1 + 0.1 * (random.random() + np.random.random()) if self.training else 1.0
        logits: torch.Tensor = self.head(self.body(torch.nan_to_num(numbers).clamp(-5, 5) * noise))
        return logits


@lru_cache
def _rows() -> tuple[Rows, Rows, InputSpec]:
    table = frame(rows=200)
    encoder = Encoder.fit(COLUMNS, part(table, "train"))
    train, validation = rows(part(table, "train"), encoder), rows(part(table, "validation"), encoder)
    arrays = {"numbers": train.numbers, "codes": train.codes}
    return train, validation, InputSpec.fit(encoder, TASKS["binary"], arrays, train.labels)


def _run(folder: str, config: TrainConfig, stop: int = -1, told: list[Pulse] | None = None) -> Outcome:
    train, validation, inputs = _rows()
    feed = StoppingFeed(train, config.batch_size, config.seed)
    assert feed.steps == STEPS
    feed.stop = stop
    job = Job(ModelSpec(build=Moody), config, TASKS["binary"], inputs)
    tell = (lambda pulse: None) if told is None else told.append
    checkpoints = Checkpoints(folder)
    try:
        return train_loop.train(job, feed, MemoryHeldOut(validation), World(), lambda epoch: None, tell, checkpoints)
    finally:
        checkpoints.wait()


@lru_cache
def _whole(config: TrainConfig) -> Outcome:
    """A run that is not stopped."""
    with tempfile.TemporaryDirectory() as folder:
        return _run(folder, config)


def _config(**changes: object) -> TrainConfig:
    return TrainConfig(**{"epochs": 3, "batch_size": 32, "lr": 1e-2, "workers": 1, "checkpoint_steps": 2} | changes)


def _same(left: Outcome, right: Outcome) -> bool:
    weights = all(np.array_equal(left.state[name], right.state[name]) for name in left.state)
    return weights and [(e.loss, e.metrics, e.best) for e in left.epochs] == [
        (e.loss, e.metrics, e.best) for e in right.epochs
    ]


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    stops=st.lists(st.integers(0, 3 * STEPS - 1), min_size=1, max_size=3),
    every=st.integers(0, 4),
    epochs=st.integers(0, 2),
    lost=st.booleans(),
    change=st.sampled_from(
        [{}, {"precision": "bf16"}, {"accumulate": 3}, {"schedule": "constant", "patience": 1, "lr": 0.3}]
    ),
)
def test_stopped_at_any_steps_it_ends_with_the_same_bits(
    stops: list[int], every: int, epochs: int, lost: bool, change: dict[str, object]
) -> None:
    config = _config(checkpoint_steps=every, checkpoint_epochs=epochs, **change)
    with tempfile.TemporaryDirectory() as broken:
        for stop in stops:
            try:
                _run(broken, config, stop)
            except Stopped:
                if lost and (written := sorted(Path(broken).glob("*"))):
                    written[-1].unlink()
        assert _same(_run(broken, config), _whole(config))


def test_it_goes_on_where_it_stopped_and_says_so(tmp_path: Path) -> None:
    told: list[Pulse] = []
    with pytest.raises(Stopped):
        _run(str(tmp_path), _config(), stop=8)
    _run(str(tmp_path), _config(), told=told)
    assert told[0].resumed
    assert (told[0].epoch, told[0].step) == (2, 3)
    assert "goes on from a checkpoint" in told[0].line()


def test_a_checkpoint_that_was_not_written_to_its_end_is_passed_over(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        _run(str(tmp_path), _config(checkpoint_steps=1), stop=4)
    third, fourth = sorted(tmp_path.glob("*.checkpoint"))
    fourth.write_bytes(fourth.read_bytes()[:-100])
    assert (body := Checkpoints(str(tmp_path)).newest()) is not None
    assert loaded(body)["at"] == 3
    third.write_bytes(b"")
    assert Checkpoints(str(tmp_path)).newest() is None


def test_a_checkpoint_of_another_training_is_refused_by_what_differs(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        _run(str(tmp_path), _config(), stop=8)
    with pytest.raises(DataError, match="another training: its settings differ"):
        _run(str(tmp_path), _config(lr=0.5))
    assert _run(str(tmp_path), _config(threads=2)).epochs


def test_a_folder_that_cannot_be_written_is_an_error_not_a_loss(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RayloopError, match="cannot be written"):
        _run(str(tmp_path / "file" / "folder"), _config())


def test_two_checkpoints_are_kept_and_the_folder_can_be_cleared(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    _run(str(folder), _config())
    assert len(list(folder.iterdir())) == 2
    Checkpoints(str(folder)).clear()
    assert not folder.exists()
