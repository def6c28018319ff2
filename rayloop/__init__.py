"""rayloop: a closed loop for models on a Ray cluster.

This page is the public API. A project is one Python module that imports it, ``import rayloop as rl``, and assigns
``project = rl.Project(...)``. The command line, ``rayloop run project.py``, does the rest.

Project:
    Project: Everything that rayloop needs to know about one model.
    Task: What the model predicts: its kind, its label, its classes.
    Period: A span of time, ``[start, end)``.
    Retrain: How a model is trained again on newer data.
    Simulation: History replayed as live traffic, to see the whole loop before real traffic arrives.

Data:
    Source: A table of rows with columns, time columns and checks.
    Examples: The source that holds the labels, and how a label is computed.
    parquet: Read Parquet files.
    csv: Read CSV files.
    iceberg: Read a table of another Iceberg catalog.
    sql: Read the result of a SQL query.
    kafka: Read the messages of Kafka topics.
    feedback: The labels that a model received, with their logged predictions, as a source.
    with_feedback: Add the labels that a model received to a source of examples.
    label_within: Declare a label that depends on later rows, such as "bought again within 90 days".
    WeakLabels: Labeling functions for the training rows that have no label.
    labeling_function: Declare an expression that gives rows a class, or abstains.

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
    PythonModel: A class of yours that scores rows, in a process of its own.
    TrainConfig: How it is trained.
    Oversample: Synthetic rows of rare classes.
    TuneConfig: The search for better settings.
    Choice: Search space: one of several options.
    IntRange: Search space: an integer in a range.
    Uniform: Search space: a number in a range.
    LogUniform: Search space: a number in a range, uniform in its logarithm.
    Prune: Compression step: remove hidden units.
    Distill: Compression step: train a smaller model on a larger model's scores.

Quality gate:
    GatePolicy: What a candidate must achieve before it is registered.
    Threshold: A limit on one metric.
    SlicePolicy: How much worse the model may be on parts of the data.
    FairnessPolicy: How much groups may differ.
    RobustnessPolicy: How much perturbed inputs may cost.
    Budget: Limits on latency and size.

Serving and rollouts:
    Serving: Replicas, CPUs and limits of the endpoint.
    RequestLimits: The largest request.
    RolloutPolicy: Steps of a canary rollout and the criteria that advance or abort it.
    FreezeWindow: A time in which no rollout advances.
    Webhook: A request for approval, or a notification, sent to another system.

Monitoring:
    DriftPolicy: When the drift monitor alerts, and what an alarm does.
    MonitoredColumn: A column that is monitored, and the direction that counts as drift.
    LogAnalysisPolicy: How logged rows are analyzed when a window closes.
    NotificationTarget: Where notifications go.

Retraining:
    Cron: Retrain on a schedule, by local time.
    OnRows: Retrain when rows have landed.
    OnLabels: Retrain when labels have arrived.

Names are loaded at their first use: importing torch and scipy takes seconds, which `rayloop abort` cannot spare.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

__version__ = "0.2.0"

_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text())
_MODULES = {
    name.name: str(node.module) for node in _STUB.body if isinstance(node, ast.ImportFrom) for name in node.names
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
