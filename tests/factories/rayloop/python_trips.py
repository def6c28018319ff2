"""A project whose model is a Python class, with the requests of tests/factories/deployments/request_load.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from tests.factories.deployments.python_bundles import write_source

NAME = "python_trips"
ROWS = 600
PROJECT = """
from datetime import UTC, datetime

import polars as pl
import rayloop as rl
from trip_models.model import Model

trips = rl.Source(
    name="trips",
    read=rl.parquet("@rows@"),
    key=("trip",),
    columns=(*rl.category("trip", "carrier"), *rl.number("distance", "late"), *rl.timestamp("departs")),
    event_time="departs",
    known_at="departs",
)
project = rl.Project(
    name="python_trips",
    task=rl.Task(kind="binary", label="late"),
    sources=(trips,),
    features=rl.FeatureSet(
        name="python_trips",
        request=(*rl.number("distance"), *rl.category("carrier"), *rl.timestamp("departs")),
        as_of=rl.derive("as_of", pl.col("departs"), "timestamp"),
    ),
    examples=rl.Examples(source="trips", id="trip", label=pl.col("late"), label_known_at="departs"),
    split=rl.HashSplit(),
    # A busy machine fails no answer of the champion.
    model=rl.PythonModel(build=Model, files="slope.txt", env_vars={"TRIP_MARKS": "@marks@"}, timeout_s=20.0),
    train=rl.TrainConfig(),
    gate=rl.GatePolicy(max_alone=None),
    rollout=rl.RolloutPolicy(
        steps=(0.5, 1.0), min_requests=10**6, max_error_rate=0.9, error_margin=None, deadline_s=900.0,
        challenger_timeout_s=1.0, poll_s=0.5,
    ),
    drift=rl.DriftPolicy(action="notify"),
    baseline=False,
)
"""
MARK = """
    def load(self, files):
        import os
        from pathlib import Path
        Path(os.environ["TRIP_MARKS"], str(os.getpid())).touch()
"""


def write_project(folder: Path, marks: Path, slope: float) -> Path:
    """Write the project; its model leaves a file with its process's id in ``marks``. Returns the project's module."""
    marks.mkdir()
    module = write_source(folder, slope=slope)
    module.write_text(module.read_text().replace("\n    def load(self, files):\n", MARK))
    random = np.random.default_rng(5)
    distance = random.normal(size=ROWS)
    late = (random.random(ROWS) < 1 / (1 + np.exp(-2.0 * distance))).astype(float)
    departs = pl.Series([1_714_557_600_000_000 + i for i in range(ROWS)]).cast(pl.Datetime("us", "UTC"))
    names = [f"trip-{i}" for i in range(ROWS)]
    rows = {"trip": names, "carrier": ["AA"] * ROWS, "distance": distance, "late": late, "departs": departs}
    pl.DataFrame(rows).write_parquet(folder / "trips.parquet")
    path = folder / "project.py"
    path.write_text(PROJECT.replace("@marks@", str(marks)).replace("@rows@", str(folder / "trips.parquet")))
    return path
