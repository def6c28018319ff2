"""rayloop: a closed loop for models on a Ray cluster.

This page is the public API. A project is one Python module that imports it, ``import rayloop as rl``, and assigns
``project = rl.Project(...)``. The command line, ``rayloop run project.py``, does the rest.

Project:
    Project: Everything that rayloop needs to know about one model.
    Task: What the model predicts: its kind, its label, its classes.
    Period: A span of time, ``[start, end)``.
    Retrain: How a model is trained again on newer data.
    Simulation: History replayed as live traffic, to see the whole loop before real traffic does.

Data:
    Source: A table of rows with columns, time columns and checks.
    Examples: The source that holds the labels, and how a label is computed.
    parquet: Read Parquet files.
    csv: Read CSV files.
    iceberg: Read a table of another Iceberg catalog.
    sql: Read the result of an SQL query.
    kafka: Read the messages of Kafka topics.

Columns:
    Column: A column by name, kind and handling of personal data.
    number: Declare numeric columns.
    category: Declare text columns.
    timestamp: Declare time columns.
    tensor: Declare a column of fixed-shape arrays.
    hashed: Mark columns as personal: store a keyed hash.
    dropped: Mark columns as personal: do not store them.

Features:
    Entity: What features are keyed by.
    FeatureView: Features of one entity from one source.
    FeatureSet: The ordered features that one model uses.
    Aggregate: A windowed aggregate of events.
    Latest: The newest value of a column.
    rolling: Declare several aggregates of one column.
    derive: Declare a feature computed from other features of the row.
    TimeSplit: Split examples into training, validation and test rows by time.
    HashSplit: Split examples by a hash of a key.

Training:
    ModelSpec: Which model, with which parameters.
    TrainConfig: How it is trained.
    TuneConfig: The search for better settings.
    Choice: Search space: one of several options.
    IntRange: Search space: an integer of a range.
    Uniform: Search space: a number of a range.
    LogUniform: Search space: a number of a range, uniform in its logarithm.
    Prune: Compression step: remove weights.
    Distill: Compression step: train a smaller model on a larger model's scores.

Quality gate:
    GatePolicy: What a candidate must reach before it is registered.
    Threshold: A limit of one metric.
    SlicePolicy: How much worse the model may be on parts of the data.
    FairnessPolicy: How much groups may differ.
    RobustnessPolicy: How much damaged inputs may cost.
    Budget: Limits of latency and size.

Serving and rollouts:
    Serving: Replicas, CPUs and limits of the endpoint.
    RequestLimits: Largest request, and how many requests may wait.
    RolloutPolicy: Steps of a canary rollout and the criteria that advance or abort it.
    FreezeWindow: A time in which no rollout advances.
    Webhook: An approval asked of another system.

Monitoring:
    DriftPolicy: When the drift monitor alerts, and what an alarm does.
    MonitoredColumn: A column that is monitored, and the direction that counts as drift.
    LogAnalysisPolicy: How logged rows are analyzed when a window closes.
    NotificationTarget: Where notifications go.

Names are loaded at their first use: torch and scipy take seconds, which `rayloop abort` does not have.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_NAMES = {
    "cluster.values": ("Task",),
    "deployments.freeze_windows": ("FreezeWindow",),
    "deployments.rollout_policy": ("RolloutPolicy", "Webhook"),
    "deployments.serve_schema": ("RequestLimits", "Serving"),
    "features.builders": ("category", "derive", "dropped", "hashed", "number", "rolling", "tensor", "timestamp"),
    "features.definitions": ("Aggregate", "Column", "Entity", "FeatureSet", "FeatureView", "Latest"),
    "features.sources.readers": ("csv", "iceberg", "kafka", "parquet", "sql"),
    "features.sources.source": ("Examples", "Source"),
    "features.split": ("HashSplit", "TimeSplit"),
    "monitoring.drift_policy": ("DriftPolicy", "LogAnalysisPolicy", "NotificationTarget"),
    "monitoring.statistics.calibration": ("MonitoredColumn",),
    "rayloop.project": ("Period", "Project", "Retrain", "Simulation"),
    "trainers.config": (
        "Choice",
        "IntRange",
        "LogUniform",
        "ModelSpec",
        "TrainConfig",
        "TuneConfig",
        "Uniform",
    ),
    "trainers.evaluation.fairness": ("FairnessPolicy",),
    "trainers.evaluation.quality_gate": ("GatePolicy", "Threshold"),
    "trainers.evaluation.robustness": ("RobustnessPolicy",),
    "trainers.evaluation.serving_budget": ("Budget",),
    "trainers.evaluation.slices": ("SlicePolicy",),
    "trainers.export.compression": ("Distill", "Prune"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULES)

if TYPE_CHECKING:
    from cluster.values import Task as Task
    from deployments.freeze_windows import FreezeWindow as FreezeWindow
    from deployments.rollout_policy import RolloutPolicy as RolloutPolicy
    from deployments.rollout_policy import Webhook as Webhook
    from deployments.serve_schema import RequestLimits as RequestLimits
    from deployments.serve_schema import Serving as Serving
    from features.builders import category as category
    from features.builders import derive as derive
    from features.builders import dropped as dropped
    from features.builders import hashed as hashed
    from features.builders import number as number
    from features.builders import rolling as rolling
    from features.builders import tensor as tensor
    from features.builders import timestamp as timestamp
    from features.definitions import Aggregate as Aggregate
    from features.definitions import Column as Column
    from features.definitions import Entity as Entity
    from features.definitions import FeatureSet as FeatureSet
    from features.definitions import FeatureView as FeatureView
    from features.definitions import Latest as Latest
    from features.sources.readers import csv as csv
    from features.sources.readers import iceberg as iceberg
    from features.sources.readers import kafka as kafka
    from features.sources.readers import parquet as parquet
    from features.sources.readers import sql as sql
    from features.sources.source import Examples as Examples
    from features.sources.source import Source as Source
    from features.split import HashSplit as HashSplit
    from features.split import TimeSplit as TimeSplit
    from monitoring.drift_policy import DriftPolicy as DriftPolicy
    from monitoring.drift_policy import LogAnalysisPolicy as LogAnalysisPolicy
    from monitoring.drift_policy import NotificationTarget as NotificationTarget
    from monitoring.statistics.calibration import MonitoredColumn as MonitoredColumn
    from rayloop.project import Period as Period
    from rayloop.project import Project as Project
    from rayloop.project import Retrain as Retrain
    from rayloop.project import Simulation as Simulation
    from trainers.config import Choice as Choice
    from trainers.config import IntRange as IntRange
    from trainers.config import LogUniform as LogUniform
    from trainers.config import ModelSpec as ModelSpec
    from trainers.config import TrainConfig as TrainConfig
    from trainers.config import TuneConfig as TuneConfig
    from trainers.config import Uniform as Uniform
    from trainers.evaluation.fairness import FairnessPolicy as FairnessPolicy
    from trainers.evaluation.quality_gate import GatePolicy as GatePolicy
    from trainers.evaluation.quality_gate import Threshold as Threshold
    from trainers.evaluation.robustness import RobustnessPolicy as RobustnessPolicy
    from trainers.evaluation.serving_budget import Budget as Budget
    from trainers.evaluation.slices import SlicePolicy as SlicePolicy
    from trainers.export.compression import Distill as Distill
    from trainers.export.compression import Prune as Prune


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
