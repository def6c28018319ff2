"""Orders, few of them with a label, and four labeling functions, one of them worse than chance."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import ray.data

import rayloop as rl

ROWS, LABELED = 4_000, 0.2
START = datetime(2024, 1, 1, tzinfo=UTC)


def orders() -> pl.DataFrame:
    """Orders of a hundred days; fraud follows from amount, returns and hour."""
    draw = np.random.default_rng(0)
    amount, returns, hour = draw.gamma(2.0, 30.0, ROWS), draw.poisson(2.0, ROWS), draw.integers(0, 24, ROWS)
    signal = amount / 60 + returns / 2 - (hour > 8) + draw.normal(0, 0.5, ROWS)
    ordered = [START + timedelta(minutes=36 * i) for i in range(ROWS)]
    is_labeled = draw.random(ROWS) < LABELED
    return pl.DataFrame({
        "order": [f"o{i}" for i in range(ROWS)],
        "amount": amount, "returns": returns.astype(float), "hour": hour.astype(float),
        "ordered_at": ordered, "checked_at": [at + timedelta(days=1) for at in ordered],
        "fraud": (signal > 1.5).astype(float),
    }).with_columns(pl.when(pl.Series(is_labeled)).then(pl.col("fraud", "checked_at")))  # fmt: skip


def functions() -> tuple[object, ...]:
    """Three that are better than chance, and one that is worse."""
    amount, returns, hour = pl.col("amount"), pl.col("returns"), pl.col("hour")
    return (
        rl.labeling_function("amount", pl.when(amount > 90).then(1).when(amount < 40).then(0)),
        rl.labeling_function("returns", pl.when(returns > 3).then(1).when(returns < 2).then(0)),
        rl.labeling_function("night", pl.when(hour < 6).then(1).when(hour > 9).then(0)),
        rl.labeling_function("backwards", pl.when(amount > 75).then(0).when(returns < 1).then(1)),
    )


project = rl.Project(
    name="weak_orders",
    task=rl.Task(kind="binary", label="fraud"),
    sources=(
        rl.Source(
            name="orders",
            read=lambda: ray.data.from_arrow(orders().to_arrow()),
            key=("order",),
            columns=(
                *rl.category("order"),
                *rl.number("amount", "returns", "hour", "fraud"),
                *rl.timestamp("ordered_at", "checked_at"),
            ),
            event_time="ordered_at",
            known_at="ordered_at",
        ),
    ),
    features=rl.FeatureSet(
        name="orders",
        request=(*rl.number("amount", "returns", "hour"), *rl.timestamp("ordered_at")),
        as_of=rl.derive("as_of", pl.col("ordered_at"), "timestamp"),
    ),
    examples=rl.Examples(
        source="orders",
        id="order",
        label=pl.col("fraud"),
        label_known_at="checked_at",
        event_time="ordered_at",
        weak=rl.WeakLabels(functions=functions(), weight=0.5),
    ),
    split=rl.TimeSplit(
        start=START,
        validate_from=START + timedelta(days=60),
        test_from=START + timedelta(days=80),
        end=START + timedelta(days=110),
    ),
    model=rl.ModelSpec(build="lightgbm", parameters={"rounds": 20, "min_child_samples": 20}),
    train=rl.TrainConfig(workers=1),
    gate=rl.GatePolicy(),
    baseline=False,
)
