"""The words of a project module; it imports them from ``rayloop``."""

from cluster.values import Task
from deployments.freeze_windows import FreezeWindow
from deployments.rollout_policy import RolloutPolicy, Webhook
from deployments.serve_schema import RequestLimits, Serving
from features.builders import category, derive, dropped, hashed, number, rolling, tensor, timestamp
from features.definitions import Aggregate, Column, Entity, FeatureSet, FeatureView, Latest
from features.sources.readers import csv, iceberg, kafka, parquet, sql
from features.sources.source import Examples, Source
from features.split import HashSplit, TimeSplit
from monitoring.drift_policy import DriftPolicy, LookPolicy, Receiver
from monitoring.statistics.calibration import Watch
from rayloop.project import Period, Project, Retrain, Simulation
from trainers.config import Choice, IntRange, LogUniform, ModelSpec, TrainConfig, TuneConfig, Uniform
from trainers.evaluation.fairness import FairnessPolicy
from trainers.evaluation.quality_gate import GatePolicy, Threshold
from trainers.evaluation.robustness import RobustnessPolicy
from trainers.evaluation.serving_budget import Budget
from trainers.evaluation.slices import SlicePolicy
from trainers.export.compression import Distill, Prune

__all__ = [
    "Aggregate",
    "Budget",
    "Choice",
    "Column",
    "Distill",
    "DriftPolicy",
    "Entity",
    "Examples",
    "FairnessPolicy",
    "FeatureSet",
    "FeatureView",
    "FreezeWindow",
    "GatePolicy",
    "HashSplit",
    "IntRange",
    "Latest",
    "LogUniform",
    "LookPolicy",
    "ModelSpec",
    "Period",
    "Project",
    "Prune",
    "Receiver",
    "RequestLimits",
    "Retrain",
    "RobustnessPolicy",
    "RolloutPolicy",
    "Serving",
    "Simulation",
    "SlicePolicy",
    "Source",
    "Task",
    "Threshold",
    "TimeSplit",
    "TrainConfig",
    "TuneConfig",
    "Uniform",
    "Watch",
    "Webhook",
    "category",
    "csv",
    "derive",
    "dropped",
    "hashed",
    "iceberg",
    "kafka",
    "number",
    "parquet",
    "rolling",
    "sql",
    "tensor",
    "timestamp",
]
