"""Training grows when a node joins and continues when it leaves, on a real Ray cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from cluster.settings import Settings
from cluster.values import Task
from features.encoder import Encoder
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part
from tests.factories.trainers.small_module import Small
from trainers.config import ModelSpec, TrainConfig
from trainers.data.datasets import TrainingData
from trainers.input_spec import InputSpec
from trainers.loop.train_events import EpochResult, StepProgress
from trainers.loop.trainer import FitRequest, fit

# Ray Data warns about its own defaults.
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

WORKER_CPUS = 6
"""Of the first node's eight: it has room for one worker."""


class _UntilEnough(Small):
    """Learns until there is a file, and nothing from then on: patience ends the training."""

    def __init__(self, inputs: InputSpec, task: Task, enough: str) -> None:
        super().__init__(inputs, task)
        self._enough = Path(enough)

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        logits = super().forward(numbers, codes)
        return logits * 0 if self._enough.exists() else logits


class _Story:
    """A node comes when one worker trains, is killed when two do, and training may end when one does again."""

    def __init__(self, settings: Settings, enough: Path) -> None:
        self._settings, self._enough = settings, enough
        self._node: subprocess.Popen[bytes] | None = None
        self.worker_counts: list[int] = []

    def __call__(self, progress: EpochResult | StepProgress) -> None:
        if isinstance(progress, EpochResult) or (self.worker_counts and self.worker_counts[-1] == progress.workers):
            return
        self.worker_counts.append(progress.workers)
        if self.worker_counts == [1]:
            threading.Thread(target=self._come, daemon=True).start()
        elif self.worker_counts == [1, 2]:
            self.leave()
        elif self.worker_counts == [1, 2, 1]:
            self._enough.touch()

    def _come(self) -> None:
        address = f"127.0.0.1:{self._settings.gcs_port}"
        ray = str(Path(sys.executable).parent / "ray")
        command = [ray, "start", f"--address={address}", f"--num-cpus={WORKER_CPUS}", "--block"]
        quiet = subprocess.DEVNULL
        self._node = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)

    def leave(self) -> None:
        if self._node is not None:
            os.killpg(self._node.pid, signal.SIGKILL)
            self._node.wait()
            self._node = None


def test_elastic_training_follows_joining_and_leaving_nodes(cluster: Settings, tmp_path: Path) -> None:
    table, enough = frame(rows=700), tmp_path / "enough"
    config = TrainConfig(
        epochs=1_000_000, batch_size=64, schedule="constant", lr=1e-4, patience=3, checkpoint_steps=20, workers=2,
        min_workers=1, resize_s=2.0, cpus_per_worker=WORKER_CPUS, restarts=3,
    )  # fmt: skip
    spec = ModelSpec(build=_UntilEnough, parameters={"enough": str(enough)})
    story = _Story(cluster, enough)
    try:
        data, encoder = TrainingData(table), Encoder.fit(COLUMNS, part(table, "train"))
        result = fit(FitRequest(spec, config, TASKS["binary"], encoder), data, lambda line: None, on_event=story)
    finally:
        story.leave()
    assert story.worker_counts == [1, 2, 1]
    assert [epoch.number for epoch in result.epochs] == list(range(1, len(result.epochs) + 1))
