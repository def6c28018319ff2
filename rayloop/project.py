"""A project: one Python module that names sources, features, model and policies."""

from __future__ import annotations

import importlib
import importlib.util
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
from features.sources.source import Examples, Source, require_columns
from features.split import Split
from monitoring.drift_policy import DriftPolicy
from trainers import metrics
from trainers.config import ModelSpec, TrainConfig, TuneConfig
from trainers.evaluation import calibration
from trainers.evaluation.quality_gate import GatePolicy
from trainers.export.compression import Compression, Distill
from trainers.models import registry

# A project folder with one of these in it would hide the package of that name on the cluster.
_RESERVED = ("cluster", "features", "trainers", "deployments", "monitoring", "rayloop")
_NAME = "abcdefghijklmnopqrstuvwxyz0123456789_"


@dataclass(frozen=True)
class Retrain:
    """How a model is trained again: the newest ``holdout`` is held out, the one before validates."""

    holdout: timedelta = timedelta(days=14)


@dataclass(frozen=True)
class Period:
    """Rows whose ``as_of`` lies in [start, end)."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class Simulation:
    """History replayed as live traffic, to see the loop turn before real traffic does.

    ``quiet``: like the training data, must raise no alarm. ``sound``: a challenger trained on all data
    so far is rolled out. ``sabotage``: a challenger trained on shuffled labels is rolled out. ``drift``:
    should raise an alarm, be trained on, and see the new challenger through its rollout. An act begins where the
    one before it ended, when that is later than its own start.
    """

    quiet: Period
    sound: Period
    sabotage: Period
    drift: Period
    step: timedelta = timedelta(hours=1)
    connections: int = 32


@dataclass(frozen=True)
class Project:
    """Everything rayloop needs to know about one model.

    ``baseline`` trains boosted trees beside the model, with and without the point-in-time features. ``purpose`` says what the
    model is for, ``limits`` what it must not be used for: both stand on the model card. ``compress`` are steps to a smaller model
    (Prune, Distill), each taken if the gate holds.
    ``tags`` ("team", "purpose", …) are what the model's cost is shown by.
    """

    name: str
    task: Task
    sources: tuple[Source, ...]
    features: FeatureSet
    examples: Examples
    split: Split
    model: ModelSpec
    train: TrainConfig
    gate: GatePolicy
    compress: tuple[Compression, ...] = ()
    tune: TuneConfig | None = None
    rollout: RolloutPolicy = field(default_factory=RolloutPolicy)
    serving: Serving = field(default_factory=Serving)
    drift: DriftPolicy = field(default_factory=DriftPolicy)
    retrain: Retrain = field(default_factory=Retrain)
    simulation: Simulation | None = None
    baseline: bool = True
    purpose: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    limits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name or not set(self.name) <= set(_NAME) or self.name[0] not in _NAME[:26]:
            raise ProjectError(
                f"project name {self.name!r} cannot name tables and routes",
                "use lower-case letters, digits and _, beginning with a letter",
            )
        repeated = {s.name for s in self.sources if [t.name for t in self.sources].count(s.name) > 1}
        if repeated:
            raise ProjectError(f"project {self.name!r} declares source {', '.join(sorted(repeated))} twice")
        if self.task.kind == "multiclass" and len(self.task.classes) < 2:
            raise ProjectError(f"project {self.name!r} is multiclass but names {len(self.task.classes)} classes")
        if self.task.kind == "multilabel":
            raise ProjectError(
                f"project {self.name!r} is multilabel: such a model is trained by trainers.fit, and not served yet",
                "declare a binary project for each label, or train without a project",
            )
        require_columns(self.features, self.examples, self.sources)
        self._require_gate_columns()
        self._require_metrics()
        self._require_parameters()
        self._require_segments()

    def view(self, name: str) -> FeatureView:
        """The feature view of this name. Raises ProjectError when none is declared."""
        for view in self.features.views:
            if view.name == name:
                return view
        known = ", ".join(view.name for view in self.features.views) or "none"
        raise ProjectError(f"{self.name} has no feature view {name!r}", f"declared are: {known}")

    def _require_segments(self) -> None:
        segments = self.drift.look.segments if self.drift.look else ()
        unknown = sorted(set(segments) - {c.name for c in self.features.available_columns if c.kind == "category"})
        if unknown:
            raise ProjectError(
                f"the drift policy of project {self.name!r} looks at segments of {', '.join(unknown)}",
                "name categories of the request, derived, or of views",
            )

    def _require_gate_columns(self) -> None:
        """What the gate slices and groups by has to be in the training frame: say so before anything is trained."""
        known = {c.name for c in self.features.available_columns if c.kind in ("number", "category")}
        unknown = sorted({*self.gate.slices.columns, *self.gate.fairness.groups} - known)
        if unknown:
            raise ProjectError(
                f"the gate of project {self.name!r} looks at {', '.join(unknown)}, which its feature set does not have",
                "name numbers and categories of the request, derived, or of views",
            )

    def _require_metrics(self) -> None:
        """What the task cannot give: the gate, or the end of a training, would find out hours later."""
        for threshold in self.gate.thresholds:
            metrics.require(self.task, threshold.metric)
        calibration.require_probabilities(self.task, self.train.calibrate)
        fair = self.gate.fairness
        limits = (fair.max_parity_difference, fair.max_odds_difference)
        if self.task.kind != "binary" and any(limit is not None for limit in limits):
            raise ProjectError(
                f"parity and equalised odds are of binary answers, and project {self.name!r} is {self.task.kind}",
                "use max_error_difference",
            )

    def _require_parameters(self) -> None:
        """What the model does not take would otherwise come out once the data have landed."""
        registry.check_parameters(self.model, self.model.parameters)
        space = self.tune.space if self.tune else {}
        registry.check_parameters(self.model, [name for name in space if name not in TrainConfig.model_fields])
        for step in self.compress:
            if isinstance(step, Distill):
                registry.check_parameters(step.student, step.student.parameters)


class Location(NamedTuple):
    """Where a project lies: the folder to ship, and the module to import there."""

    folder: Path
    module: str

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.module.replace('.', '/')}.py"


def locate_project(reference: str) -> Location:
    """Find a project by path (``a/b/project.py``) or by module name (``a.b.project``).

    A file inside packages belongs to the folder that holds the outermost one. Raises ProjectError.
    """
    path = Path(reference)
    if path.suffix == ".py" or path.exists():
        if not path.is_file():
            raise ProjectError(f"{reference} is no Python file", "give the path of a project module, or its name")
        return _outermost(path.resolve())
    parts = reference.split(".")
    for folder in (Path.cwd(), *map(Path, sys.path)):
        if folder.joinpath(*parts).with_suffix(".py").is_file():
            return Location(folder.resolve(), reference)
    raise ProjectError(
        f"no project module {reference!r} here or on the Python path", "give its path: folder/project.py"
    )


def load_project(location: Location) -> Project:
    """Import the module and return its ``project``. Raises ProjectError for whatever goes wrong in it."""
    _refuse_shadows(location.folder)
    if str(location.folder) not in sys.path:
        sys.path.insert(0, str(location.folder))
    try:
        module = importlib.import_module(location.module)
    except RayloopError:
        raise
    except ValidationError as error:
        raise ProjectError(f"{_line(error, location)}: {_told(error)}", "mend the project module") from error
    # A user's module may fail in any way; whatever it is, the user gets the line at fault.
    except Exception as error:
        raise ProjectError(
            f"{_line(error, location)}: {type(error).__name__}: {error}", "mend the project module"
        ) from error
    return _project_of(module, location)


def _project_of(module: ModuleType, location: Location) -> Project:
    found = getattr(module, "project", None)
    if not isinstance(found, Project):
        what = f"defines `project` as {type(found).__name__}" if found is not None else "defines no `project`"
        raise ProjectError(f"{location.path} {what}", "assign project = rayloop.Project(...)")
    return found


def _outermost(path: Path) -> Location:
    folder, parts = path.parent, [path.stem]
    while (folder / "__init__.py").exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    return Location(folder, ".".join(parts))


def _refuse_shadows(folder: Path) -> None:
    ours = Path(__file__).resolve().parent.parent
    if folder.resolve() == ours:
        return
    for name in _RESERVED:
        if (folder / name).is_dir() or (folder / f"{name}.py").exists():
            raise ProjectError(
                f"{folder} contains {name!r}, which would hide rayloop's own package {name}",
                "rename it or move the project",
            )


def _line(error: Exception, location: Location) -> str:
    """File and line of the innermost frame that lies in the project's folder."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    trace, place = error.__traceback__, location.path
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.startswith(str(location.folder)):
            place = f"{name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _told(error: ValidationError) -> str:
    """What a declaration does not take, in one line."""
    return f"{error.title}: " + "; ".join(_setting(each) for each in error.errors())


def _setting(found: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in found["loc"])
    if found["type"] == "extra_forbidden":
        return f"there is no {place!r}"
    if found["type"] == "missing":
        return f"{place!r} is missing"
    return f"{place}={found['input']!r}: {found['msg']}"
