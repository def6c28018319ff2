"""A worker of a real Ray Train job is killed; what comes of it is what would have come without."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import ray.data

from cluster.errors import RayloopError
from cluster.settings import Settings
from features.encoder import Encoder
from tests.factories.errors import raises
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part
from tests.factories.trainers.small_module import build_present
from trainers.config import ModelSpec, TrainConfig
from trainers.data.datasets import TrainingData
from trainers.loop.train_events import EpochResult, StepProgress
from trainers.loop.trainer import FitRequest, FitResult, fit

# Ray Data warns about its own defaults.
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]

EPOCHS = 40
"""Enough that the training has not ended when a worker is killed after the third."""


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


@dataclass(frozen=True)
class _Training:
    """The same rows, model and settings for every run of this module; ``pids`` receives its workers' numbers."""

    pids: Path
    restarts: int = 1
    cache_mib: int = 64

    def __call__(self, table: pa.Table | ray.data.Dataset, on_line: Callable[[str], None], **options: Any) -> FitResult:
        self.pids.mkdir(exist_ok=True)
        config = TrainConfig(
            epochs=EPOCHS,
            batch_size=64,
            workers=2,
            checkpoint_steps=7,
            restarts=self.restarts,
            cache_mib=self.cache_mib,
            shuffle_rows=200,
        )
        spec = ModelSpec(build=build_present, parameters={"folder": str(self.pids)})
        request = FitRequest(spec, config, TASKS["binary"], Encoder.fit(COLUMNS, part(frame(rows=700), "train")))
        return fit(request, TrainingData(table), on_line, **options)


class _Undisturbed(NamedTuple):
    result: FitResult
    lines: list[str]
    sigint_handler_kept: bool


@pytest.fixture(scope="module")
def undisturbed(cluster: Settings, tmp_path_factory: pytest.TempPathFactory) -> _Undisturbed:
    lines: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    result = _Training(tmp_path_factory.mktemp("undisturbed"))(frame(rows=700), lines.append)
    return _Undisturbed(result, lines, signal.getsignal(signal.SIGINT) is before)


def test_fit_on_two_workers_reports_each_epoch_and_keeps_the_sigint_handler(undisturbed: _Undisturbed) -> None:
    result, lines, sigint_handler_kept = undisturbed
    ends = [line for line in lines if "validation" in line]
    assert [line.partition("  ")[0] for line in ends] == [f"epoch {i}/{EPOCHS}" for i in range(1, EPOCHS + 1)]
    assert result.metrics == max((epoch.metrics for epoch in result.epochs), key=lambda metrics: metrics["auc"])
    assert result.train_metrics["auc"] > 0.7
    assert set(result.seconds) == {"encode", "train", "validate", "start and end", "total"}
    assert sigint_handler_kept


@pytest.mark.parametrize(("restarts", "cache_mib"), [(1, 64), pytest.param(0, 0, marks=pytest.mark.slow)])
def test_killed_worker_changes_no_bit(undisturbed: _Undisturbed, tmp_path: Path, restarts: int, cache_mib: int) -> None:
    """Nor does it matter whether the rows come from a table or from a dataset."""
    training = _Training(tmp_path / "pids", restarts, cache_mib)
    dataset, killer = ray.data.from_arrow(frame(rows=700)), _Killer(training.pids)
    run = partial(training, dataset, lambda line: None, on_event=killer, checkpoints=str(tmp_path / "checkpoints"))
    if restarts:
        result = run()
    else:
        with raises(RayloopError, "rayloop.training_worker_failed"):
            run()
        result = run()
    assert killer.killed
    assert any(isinstance(event, StepProgress) and event.resumed for event in killer.events)
    streamed = cache_mib == 0
    assert _same(result, training(frame(rows=700), lambda line: None) if streamed else undisturbed.result)


def _same(left: FitResult, right: FitResult) -> bool:
    weights = all(np.array_equal(left.state[name], right.state[name]) for name in left.state)
    return weights and [epoch.metrics for epoch in left.epochs] == [epoch.metrics for epoch in right.epochs]
