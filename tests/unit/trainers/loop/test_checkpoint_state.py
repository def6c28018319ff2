"""A training stopped at any step and resumed ends with the same weights, bit for bit, as an uninterrupted one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.errors import DataError, RayloopError
from tests.factories.effort import examples
from tests.factories.errors import raises
from tests.factories.trainers.frames import TASKS
from tests.factories.trainers.resumable import NoisyModel, Stopped, StoppingLoader, encoded_parts
from trainers.config import ModelSpec, TrainConfig
from trainers.data.batches import MemoryValidationLoader
from trainers.loop import train_loop
from trainers.loop.checkpointer import Checkpointer, load_checkpoint
from trainers.loop.process_group import ProcessGroup
from trainers.loop.train_events import StepProgress, TrainResult
from trainers.loop.train_spec import TrainSpec

STEPS = 5
"""In an epoch."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As in a worker; several would wait for one another longer than so small a module takes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _run(folder: str, config: TrainConfig, stop: int = -1, events: list[StepProgress] | None = None) -> TrainResult:
    train, validation, inputs = encoded_parts()
    loader = StoppingLoader(train, config.batch_size, config.seed)
    assert loader.steps == STEPS
    loader.stop = stop
    spec = TrainSpec(ModelSpec(build=NoisyModel), config, TASKS["binary"], inputs)
    on_progress = (lambda event: None) if events is None else events.append
    checkpointer = Checkpointer(folder)
    try:
        return train_loop.train(
            spec,
            loader,
            MemoryValidationLoader(validation),
            ProcessGroup(),
            lambda epoch: None,
            on_progress,
            checkpointer,
        )
    finally:
        checkpointer.wait()


@lru_cache
def _whole(config: TrainConfig) -> TrainResult:
    """A run that is not stopped."""
    with tempfile.TemporaryDirectory() as folder:
        return _run(folder, config)


def _config(**changes: object) -> TrainConfig:
    return TrainConfig(**{"epochs": 3, "batch_size": 32, "lr": 1e-2, "workers": 1, "checkpoint_steps": 2} | changes)


def _same(left: TrainResult, right: TrainResult) -> bool:
    weights = all(np.array_equal(left.state[name], right.state[name]) for name in left.state)
    return weights and [(e.loss, e.metrics, e.best) for e in left.epochs] == [
        (e.loss, e.metrics, e.best) for e in right.epochs
    ]


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.too_slow])
@given(
    stops=st.lists(st.integers(0, 3 * STEPS - 1), min_size=1, max_size=3),
    every=st.integers(0, 4),
    epochs=st.integers(0, 2),
    lost=st.booleans(),
    change=st.sampled_from(
        [
            {},
            {"precision": "bf16"},
            {"accumulate": 3},
            {"noise": 0.5},
            {"schedule": "constant", "patience": 1, "lr": 0.3},
        ]
    ),
)
def test_training_stopped_at_any_steps_ends_with_the_same_bits(
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


def test_stopped_training_resumes_at_its_step_and_reports_it(tmp_path: Path) -> None:
    events: list[StepProgress] = []
    with pytest.raises(Stopped):
        _run(str(tmp_path), _config(), stop=8)
    _run(str(tmp_path), _config(), events=events)
    assert events[0].resumed
    assert (events[0].epoch, events[0].step) == (2, 3)


def test_truncated_checkpoint_is_skipped(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        _run(str(tmp_path), _config(checkpoint_steps=1), stop=4)
    third, fourth = sorted(tmp_path.glob("*.checkpoint"))
    fourth.write_bytes(fourth.read_bytes()[:-100])
    assert (body := Checkpointer(str(tmp_path)).read_newest()) is not None
    assert load_checkpoint(body)["at"] == 3
    third.write_bytes(b"")
    assert Checkpointer(str(tmp_path)).read_newest() is None


def test_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        _run(str(tmp_path), _config(), stop=8)
    with raises(DataError, "data.checkpoint_of_other_training", parts=["settings"]):
        _run(str(tmp_path), _config(lr=0.5))
    assert _run(str(tmp_path), _config(threads=2)).epochs


def test_unwritable_checkpoint_folder_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with raises(RayloopError, "rayloop.checkpoint_not_written"):
        _run(str(tmp_path / "file" / "folder"), _config())


def test_checkpointer_keeps_two_and_clears_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    _run(str(folder), _config())
    assert len(list(folder.iterdir())) == 2
    Checkpointer(str(folder)).clear()
    assert not folder.exists()
