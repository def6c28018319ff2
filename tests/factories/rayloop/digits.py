"""scikit-learn's digits: 8 x 8 images, ten classes, no entities. A project outside the repository, in one file."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import ray.data
import torch
from sklearn.datasets import load_digits
from torch import nn

from rayloop import (
    DriftPolicy,
    Examples,
    FeatureSet,
    GatePolicy,
    ModelSpec,
    Period,
    Project,
    Retrain,
    RolloutPolicy,
    Simulation,
    Source,
    Task,
    TimeSplit,
    TrainConfig,
    category,
    derive,
    tensor,
    timestamp,
)

START, SECONDS_APART, REPEATS = datetime(2024, 1, 1, tzinfo=UTC), 60, 4


def read() -> ray.data.Dataset:
    """The images, four times over, shuffled, with a little noise; the last quarter is scanned badly (drift)."""
    digits, draw = load_digits(), np.random.default_rng(0)
    order = np.concatenate([draw.permutation(len(digits.data)) for _ in range(REPEATS)])
    images = digits.data[order].astype(np.float32)
    images += draw.normal(0, 0.5, images.shape).astype(np.float32)
    quarter = len(digits.data)
    images[-quarter:] = images[-quarter:] * 0.4 + 6
    rows = len(images)
    scan_times = [START + timedelta(seconds=SECONDS_APART * i) for i in range(rows)]
    frame = pl.DataFrame({
        "scan": [f"s{i:05d}" for i in range(rows)],
        "image": pl.Series(images.tolist(), dtype=pl.List(pl.Float32)),
        "digit": digits.target[order].astype(str),
        "taken_at": scan_times,
        "read_at": [t + timedelta(minutes=5) for t in scan_times],
    })  # fmt: skip
    return ray.data.from_arrow(frame.to_arrow())


class Strokes(nn.Module):
    """A user's own module: numbers hold the image, flattened; there are no codes."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, outputs))

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return self.layers(numbers / 16.0)


def build(inputs, task) -> nn.Module:
    return Strokes(inputs.width, task.outputs)


def at(share: float) -> datetime:
    return START + timedelta(seconds=SECONDS_APART * int(share * REPEATS * 1797))


project = Project(
    name="digits",
    task=Task(kind="multiclass", label="digit", classes=tuple("0123456789")),
    sources=(
        Source(
            name="scans",
            key=("scan",),
            columns=(*category("scan", "digit"), *tensor("image", 8, 8), *timestamp("taken_at", "read_at")),
            event_time="taken_at",
            known_at="read_at",
            read=read,
        ),
    ),
    features=FeatureSet(
        name="digits",
        request=(*tensor("image", 8, 8), *timestamp("taken_at")),
        as_of=derive("as_of", pl.col("taken_at"), "timestamp"),
    ),
    examples=Examples(source="scans", id="scan", label=pl.col("digit"), label_known_at="read_at"),
    split=TimeSplit(start=at(0.0), validate_from=at(0.15), test_from=at(0.2), end=at(0.25)),
    model=ModelSpec(build=build),
    train=TrainConfig(epochs=8, batch_size=128, lr=1e-2, workers=1),
    gate=GatePolicy(),
    # Latency is not compared: a share of 1 leaves no champion to compare with at the same time, and a machine that runs
    # other work meanwhile makes the challenger look slower.
    rollout=RolloutPolicy(steps=(0.5, 1.0), margin=0.5, poll_s=0.2, latency_quantile=None),
    drift=DriftPolicy(window_s=6 * 3600.0, span=1, min_rows=100),
    retrain=Retrain(holdout=timedelta(hours=4)),
    baseline=False,
    simulation=Simulation(
        step=timedelta(hours=2),
        quiet=Period(at(0.0), at(0.15)),
        sound=Period(at(0.25), at(0.5)),
        sabotage=Period(at(0.5), at(0.75)),
        drift=Period(at(0.75), at(1.0)),
    ),
)
