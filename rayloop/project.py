"""A project: one Python module that declares sources, features, model and policies."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from pydantic import ValidationError

from cluster.errors import ProjectError, RayloopError
from cluster.values import Task
from deployments.rollout_policy import RolloutPolicy
from deployments.serve_schema import Serving
from features.definitions import FeatureSet, FeatureView
from features.outcomes import LabelWithin
from features.sources.source import Examples, Source, require_columns
from features.split import Split
from features.types import AS_OF
from monitoring.drift_policy import DriftPolicy
from monitoring.retraining.triggers import OnRows, RetrainPolicy, Trigger
from rayloop.module_shadowing import hiding_module
from trainers import metrics
from trainers.config import Compression, Distill, ModelSpec, TrainConfig, TuneConfig
from trainers.data.oversampling import check_classes
from trainers.estimators.catalog import check_task
from trainers.evaluation import calibration
from trainers.evaluation.quality_gate import GatePolicy
from trainers.models.parameters import check_parameters
from trainers.selection.auto_parameters import check_auto
from trainers.trees.parameters import check_settings, require_module


@dataclass(frozen=True)
class Retrain:
    """How a model is trained again."""

    holdout: timedelta = timedelta(days=14)
    """Length of the newest span, held out for the gate, and of the span before it, for validation."""
    on: tuple[Trigger, ...] = ()
    """What starts a retraining apart from alarms and commands: Cron, OnRows, OnLabels."""
    max_runs: int | None = None
    """Retrains per ``budget_period`` that start by triggers and alarms together; None: no limit."""
    max_minutes: float | None = None
    """Minutes of retraining jobs per ``budget_period`` after which no other one starts; None: no limit."""
    budget_period: timedelta = timedelta(days=7)
    """Time in which ``max_runs`` and ``max_minutes`` hold, by the clock."""

    @property
    def policy(self) -> RetrainPolicy:
        """Triggers and budget, as the monitor follows them."""
        return RetrainPolicy(
            on=self.on,
            max_runs=self.max_runs,
            max_minutes=self.max_minutes,
            period_s=self.budget_period.total_seconds(),
        )

    def __post_init__(self) -> None:
        _ = self.policy


@dataclass(frozen=True)
class Period:
    """The rows whose ``as_of`` is in [start, end)."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class Simulation:
    """History replayed as live traffic, to see the whole loop before real traffic arrives.

    A phase begins where the previous one ended if that is later than the phase's own start. History is replayed faster
    than the clock: a project whose labels take longer than a day needs ``RolloutPolicy(path="labels")`` for it.
    """

    quiet: Period
    """Traffic like the training data: must raise no alarm."""
    sound: Period
    """Rollout of a challenger that is trained on all data so far: must be promoted."""
    sabotage: Period
    """Rollout of a challenger that is trained on shuffled labels: must be aborted."""
    drift: Period
    """Drifting traffic: must raise an alarm, whose retrained challenger must be promoted."""
    step: timedelta = timedelta(hours=1)
    """How far history advances at a time."""
    connections: int = 32
    """Connections that send requests at the same time."""


@dataclass(frozen=True)
class Project:
    """Everything that rayloop needs to know about one model."""

    name: str
    """Name of the model, its tables and its route: lower-case letters, digits and _, beginning with a letter."""
    task: Task
    """What the model predicts."""
    sources: tuple[Source, ...]
    """Tables of events and examples."""
    features: FeatureSet
    """The ordered features of the model."""
    examples: Examples
    """The source that holds the labels, and how a label is computed."""
    split: Split
    """Which examples train, validate and test."""
    model: ModelSpec
    """Which model, with which parameters."""
    train: TrainConfig
    """How it is trained."""
    gate: GatePolicy
    """What a candidate must reach before it is registered."""
    label_delay: timedelta | None = None
    """Time within which 95% of the labels are known; None: what ``rl.label_within`` says, else measured from the
    training frame. Where it is longer than a rollout, health decides its steps, and labels after the promotion."""
    compress: tuple[Compression, ...] = ()
    """Steps to a smaller model (Prune, Distill); a step that fails the gate is skipped."""
    tune: TuneConfig | None = None
    """The search for better settings; None trains with ``model`` and ``train`` as declared."""
    rollout: RolloutPolicy = field(default_factory=RolloutPolicy)
    """Steps and criteria of a rollout."""
    serving: Serving = field(default_factory=Serving)
    """Replicas, CPUs and limits of the endpoint."""
    drift: DriftPolicy = field(default_factory=DriftPolicy)
    """When the drift monitor alerts, and what an alarm does."""
    retrain: Retrain = field(default_factory=Retrain)
    """How the model is trained again."""
    simulation: Simulation | None = None
    """What ``rayloop run --simulate`` replays."""
    baseline: bool = True
    """Whether boosted trees are trained for comparison, with and without the point-in-time features."""
    purpose: str = ""
    """What the model is for; printed on the model card."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Labels of the model's cost, such as "team"."""
    limits: tuple[str, ...] = ()
    """What the model must not be used for; printed on the model card."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Words of a reason in explanations, by input column of the model; a column without words gives its name."""

    def __post_init__(self) -> None:
        require_name(self.name)
        repeated = {s.name for s in self.sources if [t.name for t in self.sources].count(s.name) > 1}
        if repeated:
            raise ProjectError("project.source_repeated", project=self.name, sources=sorted(repeated))
        if self.task.kind == "multiclass" and len(self.task.classes) < 2:
            raise ProjectError("project.too_few_classes", project=self.name, classes=self.task.classes)
        if self.label_delay is not None and self.label_delay < timedelta(0):
            raise ProjectError("project.label_delay", project=self.name, delay=self.label_delay)
        if self.task.kind == "multilabel":
            raise ProjectError("project.multilabel", project=self.name)
        require_columns(self.features, self.examples, self.sources, self.split.group)
        self._require_gate_columns()
        self._require_metrics()
        self._require_fairness()
        self._require_parameters()
        self._require_segments()
        self._require_trigger_sources()
        self._require_weak_labels()
        self._require_reasons()
        if self.simulation is not None and isinstance(self.examples.label, LabelWithin):
            raise ProjectError("project.simulation_label", project=self.name)

    def view(self, name: str) -> FeatureView:
        """Return the feature view of this name. Raises ProjectError when it is not declared."""
        views = {view.name: view for view in self.features.views}
        if name not in views:
            raise ProjectError("project.unknown_view", project=self.name, view=name, declared=list(views))
        return views[name]

    def require_weak_labels(self) -> None:
        """Raise ProjectError when the project declares no labeling functions."""
        if self.examples.weak is None:
            raise ProjectError("project.weak_labels_missing", project=self.name)

    def _require_segments(self) -> None:
        segments = self.drift.log_analysis.segments if self.drift.log_analysis else ()
        unknown = sorted(set(segments) - {c.name for c in self.features.available_columns if c.kind == "category"})
        if unknown:
            raise ProjectError("project.unknown_segment", project=self.name, columns=unknown)

    def _require_trigger_sources(self) -> None:
        declared = [source.name for source in self.sources]
        for trigger in self.retrain.on:
            if isinstance(trigger, OnRows) and trigger.source and trigger.source not in declared:
                raise ProjectError(
                    "project.unknown_trigger_source", project=self.name, source=trigger.source, declared=declared
                )

    def _require_weak_labels(self) -> None:
        """Refuse labeling functions that read other columns than the training frame has, and tasks without classes."""
        weak = self.examples.weak
        if weak is None:
            return
        if self.task.kind == "regression":
            raise ProjectError("project.weak_labels_of_regression", project=self.name)
        known = [AS_OF, *(c.name for c in self.features.available_columns)]
        if unknown := [name for name in weak.input_columns if name not in known]:
            raise ProjectError("project.unknown_weak_label_column", project=self.name, columns=unknown, present=known)

    def _require_reasons(self) -> None:
        if unknown := sorted(set(self.reasons) - {column.name for column in self.features.columns}):
            raise ProjectError("project.unknown_reason", project=self.name, columns=unknown)

    def _require_gate_columns(self) -> None:
        """Refuse slices and groups that are not in the training frame, before anything is trained."""
        known = {c.name for c in self.features.available_columns if c.kind in ("number", "category")}
        uses = (("gate slice column", self.gate.slices.columns), ("fairness group column", self.gate.fairness.groups))
        for use, columns in uses:
            for column in (column for column in columns if column not in known):
                raise ProjectError("project.unknown_gate_column", use=use, column=column, present=sorted(known))

    def _require_metrics(self) -> None:
        """Refuse metrics that the task does not have; otherwise the gate would fail after hours of training."""
        for threshold in self.gate.thresholds:
            metrics.check_metric(self.task, threshold.metric)
        calibration.require_probabilities(self.task, self.train.calibrate)
        check_classes(self.task, self.train)
        fair = self.gate.fairness
        limits = (fair.max_parity_difference, fair.max_odds_difference)
        if self.task.kind != "binary" and any(limit is not None for limit in limits):
            raise ProjectError("project.fairness_needs_binary", project=self.name, task_kind=self.task.kind)

    def _require_fairness(self) -> None:
        """Refuse a mitigation without groups and labels of classes, and limits that the logged rows cannot show."""
        fair = self.gate.fairness
        if fair.mitigate == "reweigh" and not fair.groups:
            raise ProjectError("project.reweigh_without_groups", project=self.name)
        if fair.mitigate == "reweigh" and self.task.kind == "regression":
            raise ProjectError("project.reweigh_of_regression", project=self.name)
        if not fair.live:
            return
        columns = self.features.available_columns
        logged = {c.name for c in columns if c.kind == "category" and c.personal != "drop"}
        if unknown := sorted(set(fair.groups) - logged):
            raise ProjectError("project.fairness_not_logged", project=self.name, columns=unknown)
        if self.task.kind == "regression":
            raise ProjectError("project.fairness_of_regression", project=self.name)
        declared = (fair.max_parity_difference, fair.max_odds_difference, fair.max_error_difference)
        if not fair.groups or not any(declared) or 0.0 in declared:
            raise ProjectError("project.fairness_without_limit", project=self.name)

    def _require_parameters(self) -> None:
        """Refuse parameters that the model does not have, before any data is ingested."""
        check_parameters(self.model, self.model.parameters)
        if self.model.is_fixed:
            self._require_no_training()
        elif self.model.is_auto:
            check_auto(self.model, self.train, self.tune, self.compress)
        elif not self.model.is_module:
            check_settings(self.model, self.train, self.tune, self.compress)
        if self.model.is_estimator:
            check_task(self.model, self.task)
        space = self.tune.space if self.tune else {}
        if self.train.minority is not None and "class_weights" in space:
            raise ProjectError("project.minority_with_class_weights", weights="a search space")
        check_parameters(self.model, [name for name in space if name not in TrainConfig.model_fields])
        for step in self.compress:
            if isinstance(step, Distill):
                check_parameters(step.student, step.student.parameters)
                require_module(step.student, step)

    def _require_no_training(self) -> None:
        """Refuse what would change or train a model that is not trained here."""
        settings = {
            "tune": self.tune is not None,
            "simulation": self.simulation is not None,
            "compress": bool(self.compress),
            "retrain.on": bool(self.retrain.on),
            "train.calibrate": self.train.calibrate != "none",
            "train.minority": self.train.minority is not None,
            "train.noise": self.train.noise > 0,
            "train.quantize": self.model.is_python and self.train.quantize != "none",
            "gate.fairness.mitigate": self.gate.fairness.mitigate != "none",
        }
        for name, is_set in settings.items():
            if is_set and self.model.is_python:
                raise ProjectError("project.python_is_fixed", what=name)
            if is_set:
                raise ProjectError("project.imported_is_fixed", what=name)


def require_name(name: str) -> None:
    """Refuse a name that tables and routes cannot have. Raises ProjectError."""
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise ProjectError("project.invalid_name", project=name)


class Location(NamedTuple):
    """Where a project is: the folder to ship, and the module to import from it."""

    folder: Path
    module: str

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.module.replace('.', '/')}.py"


def locate_project(reference: str) -> Location:
    """Find a project by path (``a/b/project.py``) or by module name (``a.b.project``).

    A file inside a package belongs to the folder that holds the outermost package.

    Raises:
        ProjectError: There is no such file or module.
    """
    path = Path(reference)
    if path.suffix == ".py" or path.exists():
        if not path.exists():
            raise ProjectError("project.file_not_found", reference=reference)
        if path.suffix != ".py" or not path.is_file():
            raise ProjectError("project.not_a_file", reference=reference)
        return _outermost(path.resolve())
    parts = reference.split(".")
    for folder in (Path.cwd(), *map(Path, sys.path)):
        if folder.joinpath(*parts).with_suffix(".py").is_file():
            return Location(folder.resolve(), reference)
    raise ProjectError("project.not_found", reference=reference)


def load_project(location: Location) -> Project:
    """Import the project's module and return its ``project``.

    Raises:
        ProjectError: The module fails, defines no project, or is next to a module that hides one of rayloop's packages.
    """
    if path := hiding_module(location.folder):
        raise ProjectError("project.hides_package", path=str(path))
    if str(location.folder) not in sys.path:
        sys.path.insert(0, str(location.folder))
    try:
        module = importlib.import_module(location.module)
    except RayloopError:
        raise
    except ValidationError as error:
        line, reason = _line(error, location), f"{error.title}: " + "; ".join(map(_describe_field, error.errors()))
        raise ProjectError("project.invalid", line=line, reason=reason) from error
    # A user's module may fail in any way; the error names the line at fault.
    except Exception as error:
        line = _line(error, location)
        raise ProjectError("project.failed", line=line, kind=type(error).__name__, reason=str(error)) from error
    return _project_of(module, location)


def _project_of(module: ModuleType, location: Location) -> Project:
    project = getattr(module, "project", None)
    if not isinstance(project, Project):
        what = f"defines `project` as {type(project).__name__}" if project is not None else "defines no `project`"
        raise ProjectError("project.not_defined", path=location.path, problem=what, defined_as=type(project).__name__)
    return project


def _outermost(path: Path) -> Location:
    folder, parts = path.parent, [path.stem]
    while (folder / "__init__.py").exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    return Location(folder, ".".join(parts))


def _line(error: Exception, location: Location) -> str:
    """Return file and line of the innermost frame in the project's folder."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    trace, place = error.__traceback__, location.path
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.startswith(str(location.folder)):
            place = f"{name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _describe_field(detail: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"unknown field {name!r}"
    if detail["type"] == "missing":
        return f"{name!r} is missing"
    return f"{name}={detail['input']!r}: {detail['msg']}"
