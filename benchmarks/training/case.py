"""The training rows: the flights of 2013 with their features, as rayloop's frame and as Parquet for the peers."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import results
from benchmarks.serving.subjects import own_settings
from cluster import connection, local_cluster
from cluster.values import Task
from examples.flights.data import flights_frame, weather_frame
from features.encoder import Encoder
from features.offline.example_rows import build_examples
from features.offline.point_in_time import index_events, look_up_features
from features.offline.purge import assign_parts, keep_rows
from features.split import SPLIT, TRAIN
from features.types import LABEL
from rayloop.frame_view import MIN_CATEGORY_ROWS
from rayloop.project import Project
from trainers.config import ModelSpec, TrainConfig
from trainers.input_spec import InputSpec

SPEC = ModelSpec(build="mlp", parameters={"hidden": (256, 128), "dropout": 0.2})
CONFIG = TrainConfig(epochs=5, batch_size=2048, workers=1, checkpoint_epochs=0, checkpoint_steps=0)

ROUNDS = 3

_FRAME = "frame.parquet"


@dataclass(frozen=True)
class TrainingCase:
    """The training frame of the flights project; ``folder`` holds it and the peers' files."""

    table: pa.Table
    encoder: Encoder
    task: Task
    folder: Path

    def part(self, split: str) -> pa.Table:
        return self.table.filter(pc.equal(self.table[SPLIT], split))

    @cached_property
    def inputs(self) -> InputSpec:
        train = self.part(TRAIN)
        return InputSpec.fit(self.encoder, self.task, self.encoder.encode(train), train[LABEL].to_numpy())

    @cached_property
    def plan(self) -> dict[str, Any]:
        """The plan for the peers; the encoded training rows are in Parquet files in the same folder."""
        train, path = self.part(TRAIN), self.folder / "train.parquet"
        arrays = self.encoder.encode(train)
        numbers = {f"n{i}": values for i, values in enumerate(arrays["numbers"].T)}
        codes = {f"c{i}": values for i, values in enumerate(arrays["codes"].T)}
        pq.write_table(pa.table({**numbers, **codes, "label": train[LABEL]}), path)
        return {
            "parquet": str(path),
            "numbers": list(numbers),
            "codes": list(codes),
            "mean": self.inputs.mean,
            "std": self.inputs.std,
            "missing": self.inputs.missing,
            "cardinalities": self.inputs.cardinalities,
            "batch_size": CONFIG.batch_size,
            "lr": CONFIG.lr,
            "weight_decay": CONFIG.weight_decay,
            **SPEC.parameters,
        }


def arguments(program: str, about: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that every program of this benchmark has."""
    parser = argparse.ArgumentParser(prog=program, description=about)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=results.RESULTS, help="folder of the results")
    default_folder = Path(tempfile.gettempdir()) / "rayloop-bench-training"
    parser.add_argument(
        "--folder", type=Path, default=default_folder, help="where the training frame is kept between runs"
    )
    return parser


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Start a cluster on this machine and connect this process to it."""
    import ray

    shutil.rmtree(folder / "home", ignore_errors=True)
    settings = own_settings(folder / "home")
    local_cluster.start(settings)
    connection.use_token()
    os.environ.update(settings.environment())
    try:
        connection.connect(settings)
        # On SIGTERM, stop the cluster first; Ray's own handler, installed when connecting, would not.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        yield
    finally:
        ray.shutdown()
        local_cluster.stop(settings)


def flights(folder: Path, progress: Callable[[str], None]) -> TrainingCase:
    """The examples of the flights project with its point-in-time features, built once per ``folder``."""
    from examples.flights.project import project

    path = folder / _FRAME
    if not path.exists():
        progress("making the training frame")
        pq.write_table(_frame(project), path)
    table = pq.read_table(path)
    train = table.filter(pc.equal(table[SPLIT], TRAIN))
    encoder = Encoder.fit(project.features.columns, train, MIN_CATEGORY_ROWS)
    return TrainingCase(table, encoder, project.task, folder)


def _frame(project: Project) -> pa.Table:
    """Build in this process what features/offline/training_frame.py builds on the cluster."""
    sources = {"flights": flights_frame(), "weather": weather_frame()}
    rows = build_examples(sources["flights"], project.features, project.examples, project.task, None)
    rows = keep_rows(assign_parts(rows, project.split))
    features = [
        look_up_features(view, index_events(view, sources[view.source]), rows) for view in project.features.views
    ]
    return pl.concat([rows, *features], how="horizontal").to_arrow()
