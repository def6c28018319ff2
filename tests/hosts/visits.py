"""A small project for clusters of hosts: one view, two training workers, a replica on each of two hosts."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import ray.data

from rayloop import (
    DriftPolicy,
    Entity,
    Examples,
    FeatureSet,
    FeatureView,
    GatePolicy,
    ModelSpec,
    Project,
    Retrain,
    RolloutPolicy,
    Serving,
    Source,
    Task,
    TimeSplit,
    TrainConfig,
    category,
    derive,
    number,
    rolling,
    timestamp,
)

START, VISITS = datetime(2024, 1, 1, tzinfo=UTC), 4000


def read() -> ray.data.Dataset:
    """Visits of two shops, ten minutes apart; who spent much spends much again."""
    draw = np.random.default_rng(0)
    times = [START + timedelta(minutes=10 * i) for i in range(VISITS)]
    level = 10 + 5 * np.sin(np.arange(VISITS) / 40)
    frame = pl.DataFrame({
        "id": [f"v{i}" for i in range(VISITS)],
        "shop": draw.choice(["north", "south"], VISITS),
        "spent": level + draw.normal(0, 1, VISITS),
        "at": times,
        "known": [t + timedelta(minutes=1) for t in times],
    })  # fmt: skip
    return ray.data.from_arrow(frame.to_arrow())


def at(share: float) -> datetime:
    return START + timedelta(minutes=10 * int(share * VISITS))


project = Project(
    name="visits",
    task=Task(kind="binary", label="much"),
    sources=(
        Source(
            name="visits",
            key=("id",),
            columns=(*category("id", "shop"), *number("spent"), *timestamp("at", "known")),
            event_time="at",
            known_at="known",
            read=read,
        ),
    ),
    features=FeatureSet(
        name="visits",
        request=(*category("shop"), *timestamp("at")),
        as_of=derive("as_of", pl.col("at"), "timestamp"),
        views=(
            FeatureView(
                name="shop",
                entity=Entity(name="shop", keys=("shop",)),
                source="visits",
                event_time="at",
                known_at="known",
                aggregates=rolling("spent", timedelta(hours=3), "spent_3h"),
            ),
        ),
    ),
    examples=Examples(source="visits", id="id", label=pl.col("spent") > 10, label_known_at="known"),
    split=TimeSplit(start=at(0.0), validate_from=at(0.6), test_from=at(0.7), end=at(0.8)),
    model=ModelSpec(parameters={"hidden": (16,)}),
    train=TrainConfig(epochs=4, batch_size=128, lr=1e-2, workers=2),
    gate=GatePolicy(),
    serving=Serving(replicas=2, cpus=0.2),
    rollout=RolloutPolicy(steps=(0.5, 1.0), margin=0.5, poll_s=0.5),
    drift=DriftPolicy(window_s=6 * 3600.0, span=1, min_rows=100),
    retrain=Retrain(holdout=timedelta(days=2)),
    baseline=False,
)
