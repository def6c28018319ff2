"""A worker of a real Ray Train job is killed; what comes of it is what would have come without."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import RayloopError
from cluster.settings import Settings
from cluster.values import Task
from features.encoder import Encoder
from tests.factories.errors import raises
from tests.factories.trainers.frames import COLUMNS, TASKS, Small, frame, part
from trainers.config import ModelSpec, TrainConfig
from trainers.data.datasets import TrainingData
from trainers.input_spec import InputSpec
from trainers.loop.train_events import EpochResult, StepProgress
from trainers.loop.trainer import FitRequest, FitResult, fit

# Ray Data warns about its own defaults.
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]


def _present(inputs: InputSpec, task: Task, folder: str) -> Small:
    """Leaves the number of the process that builds it in ``folder``."""
    (Path(folder) / str(os.getpid())).touch()
    return Small(inputs, task)


class _Killer:
    """Kills a worker, once, when the third epoch is over; keeps the events."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.events: list[EpochResult | StepProgress] = []
        self.killed = 0

    def __call__(self, event: EpochResult | StepProgress) -> None:
        self.events.append(event)
        if isinstance(event, EpochResult) and event.number == 3 and not self.killed:
            workers = [int(path.name) for path in self._folder.iterdir() if path.name != str(os.getpid())]
            self.killed = max(workers)
            os.kill(self.killed, signal.SIGKILL)


@pytest.mark.parametrize(("restarts", "cache_mib"), [(1, 64), pytest.param(0, 0, marks=pytest.mark.slow)])
def test_killed_worker_changes_no_bit(cluster: Settings, tmp_path: Path, restarts: int, cache_mib: int) -> None:
    table = frame(rows=700)
    encoder, data = Encoder.fit(COLUMNS, part(table, "train")), TrainingData(table)
    config = TrainConfig(
        epochs=60,
        batch_size=64,
        workers=2,
        checkpoint_steps=7,
        restarts=restarts,
        cache_mib=cache_mib,
        shuffle_rows=200,
    )
    people, folder = tmp_path / "people", str(tmp_path / "checkpoints")
    people.mkdir()
    spec, killer = ModelSpec(build=_present, parameters={"folder": str(people)}), _Killer(people)
    run = partial(fit, FitRequest(spec, config, TASKS["binary"], encoder), data, lambda line: None)
    if restarts:
        result = run(on_event=killer, checkpoints=folder)
    else:
        with raises(RayloopError, "rayloop.training_worker_failed"):
            run(on_event=killer, checkpoints=folder)
        result = run(on_event=killer, checkpoints=folder)
    assert killer.killed
    assert any(isinstance(event, StepProgress) and event.resumed for event in killer.events)
    assert _same(result, run())


def _same(left: FitResult, right: FitResult) -> bool:
    weights = all(np.array_equal(left.state[name], right.state[name]) for name in left.state)
    return weights and [epoch.metrics for epoch in left.epochs] == [epoch.metrics for epoch in right.epochs]
