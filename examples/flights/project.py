"""The flagship project: will a flight out of New York arrive more than 15 minutes late?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from examples.flights.features import examples, features, flights, weather
from rayloop import (
    Budget,
    Choice,
    DriftPolicy,
    FairnessPolicy,
    GatePolicy,
    LogAnalysisPolicy,
    LogUniform,
    ModelSpec,
    MonitoredColumn,
    Period,
    Project,
    Retrain,
    RobustnessPolicy,
    RolloutPolicy,
    Simulation,
    SlicePolicy,
    Task,
    Threshold,
    TimeSplit,
    TrainConfig,
    TuneConfig,
    Uniform,
)


def _day(month: int, day: int = 1) -> datetime:
    return datetime(2013, month, day, tzinfo=UTC)


project = Project(
    name="flights",
    task=Task(kind="binary", label="late"),
    sources=(flights, weather),
    features=features,
    examples=examples,
    split=TimeSplit(start=_day(1), validate_from=_day(9), test_from=_day(10), end=datetime(2014, 1, 2, tzinfo=UTC)),
    model=ModelSpec(build="mlp", parameters={"hidden": (256, 128), "dropout": 0.2}),
    train=TrainConfig(epochs=2, batch_size=2048, lr=3e-3, weight_decay=1e-2, workers=2),
    tune=TuneConfig(
        trials=8,
        space={
            "lr": LogUniform(low=1e-3, high=8e-3),
            "dropout": Uniform(low=0.1, high=0.35),
            "weight_decay": LogUniform(low=3e-3, high=1e-1),
            "batch_size": Choice(options=(1024, 2048, 4096)),
        },
    ),
    gate=GatePolicy(
        thresholds=(Threshold(metric="auc", min=0.68), Threshold(metric="ece", max=0.06)),
        margin=0.02,
        max_gap=0.1,
        # No airline and no airport should be much worse off than the others, or than with the champion.
        slices=SlicePolicy(columns=("carrier", "origin"), max_ratio=2.5, max_regression=1.25),
        fairness=FairnessPolicy(groups=("origin",), max_error_difference=0.1),
        robustness=RobustnessPolicy(max_loss=0.1),
        budget=Budget(max_us_1=1000, max_mib=5),
    ),
    rollout=RolloutPolicy(
        steps=(0.05, 0.25, 0.5, 1.0), margin=0.08, max_error_rate=0.03, latency_floor_ms=50.0, poll_s=0.5
    ),
    # Days calmer than in training are no reason to retrain; only more delay than usual is.
    drift=DriftPolicy(
        watch=(
            MonitoredColumn(column="score", direction="up"),
            MonitoredColumn(column="dest_arrivals_6h_mean", direction="up"),
            MonitoredColumn(column="origin_departures_2h_mean", direction="up"),
        ),
        log_analysis=LogAnalysisPolicy(segments=("origin",)),
    ),
    tags={"team": "operations", "purpose": "delays"},
    retrain=Retrain(holdout=timedelta(days=21)),
    purpose=(
        "Two hours before departure, tell passengers and gates which flights will probably arrive more than 15 minutes"
        " late."
    ),
    limits=("Flights out of New York only; canceled and diverted flights are not predicted.",),
    simulation=Simulation(
        quiet=Period(_day(8, 24), _day(8, 28)),
        sound=Period(_day(10), _day(11)),
        sabotage=Period(_day(10), _day(11)),
        drift=Period(_day(12, 5), _day(12, 31)),
        step=timedelta(hours=12),
    ),
)
