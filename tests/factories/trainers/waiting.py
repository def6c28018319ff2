"""A search that waits in its third trial.

Also a program: ``python -m tests.factories.trainers.waiting FOLDER``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from cluster import connection
from cluster.settings import load_settings
from cluster.values import Task
from features.encoder import Encoder
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part
from tests.factories.trainers.small_module import Small
from trainers.config import LogUniform, ModelSpec, TrainConfig, TuneConfig
from trainers.data.datasets import TrainingData
from trainers.input_spec import InputSpec
from trainers.loop.trainer import FitRequest
from trainers.tuning.search import search
from trainers.tuning.trial import Trial, TuneResult

TUNING = TuneConfig(
    space={"lr": LogUniform(low=1e-4, high=1e-1)},
    trials=4,
    max_concurrent=1,
    cpus_per_trial=0.5,
    finalists=2,
    finalist_seeds=2,
)


def waiting(inputs: InputSpec, task: Task, folder: str) -> Small:
    """Writes a file for each call. The fourth call, which is the third trial's, waits for the file "go"."""
    (Path(folder) / f"built-{time.time_ns()}").touch()
    while len(builds(folder)) > 3 and not (Path(folder) / "go").exists():
        time.sleep(0.02)
    return Small(inputs, task)


def builds(folder: str) -> list[str]:
    """The times that a model was built: once by a search itself, and once a trial."""
    return [path.name for path in Path(folder).glob("built-*")]


def run(folder: str, ended: list[Trial]) -> TuneResult:
    table = frame(rows=300)
    return search(
        FitRequest(
            ModelSpec(build=waiting, parameters={"folder": folder}),
            TrainConfig(epochs=2, batch_size=64),
            TASKS["binary"],
            Encoder.fit(COLUMNS, part(table, "train")),
        ),
        TUNING,
        TrainingData(table),
        lambda line: None,
        on_trial=ended.append,
        folder=f"{folder}/journal",
    )


if __name__ == "__main__":
    connection.use_token()
    connection.connect(load_settings())
    run(sys.argv[1], [])
