"""The values that a report shows."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cluster.values import Alarm, Decision, Frozen
from monitoring.analysis.log_analysis import AnalysisResult, WindowQuality
from monitoring.detection.detector import WindowResult
from monitoring.export.cost import UsageTotals
from monitoring.retraining.decision import RetrainEntry
from monitoring.retraining.retrain_gain import RetrainGain


class MetricHistory(Frozen):
    """A metric over periods such as months."""

    metric: str
    better: Literal["higher", "lower"]
    periods: tuple[str, ...]
    series: dict[str, tuple[float | None, ...]]
    """A value per period, None where there is none: of the model first, then of what it is compared with."""


class CalibrationCurve(Frozen):
    """Mean prediction, observed rate and rows of each bin of a model's predictions."""

    name: str
    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    counts: tuple[int, ...]


class RolloutHistory(Frozen):
    """The decisions of a rollout, in order."""

    name: str
    decisions: tuple[Decision, ...]


class AlarmOutcome(Frozen):
    """An alarm and what was done about it."""

    at: float
    """Wall-clock seconds since the epoch."""
    alarm: Alarm
    outcome: str


class VersionRow(Frozen):
    """A registered version, as a row of a table."""

    version: str
    role: str
    trained_on: str
    because: str = ""
    """Why it was retrained; empty for a version that was trained by hand."""
    metrics: dict[str, float]


class ModelCost(Frozen):
    """Resources that a model's replicas reserved and used, their cost, and the tags that the project declares."""

    total: float
    usage: UsageTotals
    tags: dict[str, str]


class MonitoringReport(Frozen):
    """Everything on the page. An empty part becomes a line that says so."""

    model: str
    made_at: float
    facts: tuple[tuple[str, str], ...] = ()
    quality: tuple[MetricHistory, ...] = ()
    calibration: tuple[CalibrationCurve, ...] = ()
    drift: tuple[WindowResult, ...] = ()
    actions: tuple[AlarmOutcome, ...] = ()
    performance: tuple[WindowQuality, ...] = ()
    analyses: tuple[AnalysisResult, ...] = ()
    cost: ModelCost | None = None
    rollouts: tuple[RolloutHistory, ...] = ()
    versions: tuple[VersionRow, ...] = ()
    retraining: tuple[RetrainEntry, ...] = ()
    """Runs by triggers and alarms, what was missed or withheld, pauses; oldest first."""
    gains: tuple[RetrainGain, ...] = ()
    """What retrained versions gained over those that they replaced."""
    timings: dict[str, float] = Field(default_factory=dict)
    """Wall-clock seconds of each stage."""
