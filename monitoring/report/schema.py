"""What a report is made of. Frozen values; where they come from is their maker's business."""

from __future__ import annotations

from typing import Literal

from cluster.values import Alarm, Decision, Frozen
from monitoring.analysis.log_analysis import Looked, WindowQuality
from monitoring.detection.detector import WindowResult
from monitoring.export.cost import Used


class Series(Frozen):
    """A figure per period; None where there is none."""

    name: str
    values: tuple[float | None, ...]


class Quality(Frozen):
    """A metric over periods (months, say): the model first, then what it is held against."""

    metric: str
    better: Literal["higher", "lower"]
    periods: tuple[str, ...]
    series: tuple[Series, ...]


class CalibrationCurve(Frozen):
    """Mean prediction, observed rate and rows of each bin of a model's predictions."""

    name: str
    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    counts: tuple[int, ...]


class Rollout(Frozen):
    """A rollout's journal, in order."""

    name: str
    decisions: tuple[Decision, ...]


class Action(Frozen):
    """An alarm and what was done about it. ``at``: wall-clock seconds since the epoch."""

    at: float
    alarm: Alarm
    done: str


class VersionRow(Frozen):
    """A registered version, as a row of a table."""

    version: str
    role: str
    trained_on: str
    metrics: dict[str, float]


class Timing(Frozen):
    stage: str
    seconds: float


class Cost(Frozen):
    """What a model's replicas held and used, what that costs, and the tags that the project declares."""

    total: float
    used: Used
    tags: dict[str, str]


class Report(Frozen):
    """Everything on the page. A part that is empty is left out, with a line saying so."""

    model: str
    made_at: float
    facts: tuple[tuple[str, str], ...] = ()
    quality: tuple[Quality, ...] = ()
    calibration: tuple[CalibrationCurve, ...] = ()
    drift: tuple[WindowResult, ...] = ()
    actions: tuple[Action, ...] = ()
    performance: tuple[WindowQuality, ...] = ()
    looks: tuple[Looked, ...] = ()
    cost: Cost | None = None
    rollouts: tuple[Rollout, ...] = ()
    versions: tuple[VersionRow, ...] = ()
    timings: tuple[Timing, ...] = ()
