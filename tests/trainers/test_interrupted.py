"""The driver of a search is killed; what it had done is not done again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.contracts import Task
from cluster.settings import Settings
from features.encoding import Encoder
from tests.trainers.frames import COLUMNS, TASKS, Small, frame, part
from trainers.config import LogUniform, ModelSpec, TrainConfig, TuneConfig
from trainers.data import TrainingData
from trainers.inputs import InputSpec
from trainers.journal import Journal
from trainers.trial import Trial, TuneResult
from trainers.tune import search

# Ray Data warns about its own defaults.
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]

DEADLINE_S = 120.0
TPE = TuneConfig(
    space={"lr": LogUniform(low=1e-4, high=1e-1)}, trials=5, max_concurrent=1, finalists=2, finalist_seeds=2
)
POPULATION = TuneConfig(space=TPE.space, trials=2, max_concurrent=1, method="pbt", exchange_epochs=2)


def _slow(inputs: InputSpec, task: Task) -> Small:
    """As long as nobody has touched the file "go", the third training waits: there is time to kill its driver."""
    folder = Path(os.environ["RAYLOOP_TEST_FOLDER"])
    (folder / f"built-{time.time_ns()}").touch()
    while len(list(folder.glob("built-*"))) > 3 and not (folder / "go").exists():
        time.sleep(0.05)
    return Small(inputs, task)
