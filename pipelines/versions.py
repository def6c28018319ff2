"""From a training frame to a registered version: search, fit, evaluate, gate, register."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from cluster.contracts import CHAMPION, GateReport, ModelVersion, Snapshot
from cluster.errors import DataError, GateFailed
from cluster.registry import FINGERPRINT_TAG, GATE_TAG, Run
from features.bundle import MODEL, PROFILE, Manifest, Precision
from features.definitions import Column
from features.encoding import Encoder
from features.frame import LABEL
from features.pit import AS_OF
from features.reference import ReferenceProfile, profile_windows
from features.split import SPLIT, TEST, TRAIN, VALIDATION
from pipelines.workspace import Workspace
from trainers import evaluate, tasks
from trainers.config import ModelSpec, TrainConfig
from trainers.data import TrainingData
from trainers.export import export
from trainers.fit import FitResult, fit
from trainers.latency import latencies, runtime_line
from trainers.precision import choose
from trainers.tune import TuneResult, search

MIN_CATEGORY_ROWS = 20
SUMMARY = "rayloop.summary"
PRECISION = "rayloop.precision"
RUNTIME = "rayloop.runtime"
_PARITY_ROWS = 2000
_SCORE_COLUMN = "score"
_PREDICTED_COLUMN = "predicted"


class Recipe(NamedTuple):
    """What to train and how; ``shuffle_labels`` is sabotage, for rehearsals."""

    spec: ModelSpec
    config: TrainConfig
    shuffle_labels: bool = False


class Candidate(NamedTuple):
    """A registered version with what is known of it."""

    version: ModelVersion
    report: GateReport
    quality: dict[str, float]
    reused: bool


class Frame:
    """A training frame at hand: its snapshot, its rows, and what is encoded of it."""

    def __init__(self, workspace: Workspace, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.rows = workspace.tables.read(snapshot.table, snapshot.id)
        self.encoder = Encoder.fit(workspace.project.features.columns, self.part(TRAIN), MIN_CATEGORY_ROWS)
        for name in (TRAIN, VALIDATION, TEST):
            if not self.part(name).num_rows:
                raise DataError(f"the training frame has no {name} rows", "widen the split, or land more data")
        self.data = TrainingData.of(workspace.tables.dataset(snapshot))

    def part(self, split: str) -> pa.Table:
        return self.rows.filter(pa.compute.equal(self.rows[SPLIT], split))

    def sabotaged(self, seed: int) -> TrainingData:
        """The same rows with the training labels dealt out at random."""
        rows = pl.DataFrame(self.rows)
        dealt = rows.filter(pl.col(SPLIT) == TRAIN).with_columns(pl.col(LABEL).shuffle(seed=seed))
        return TrainingData.of(pl.concat([dealt, rows.filter(pl.col(SPLIT) != TRAIN)]).to_arrow())


def tune(workspace: Workspace, frame: Frame) -> tuple[Recipe, TuneResult | None]:
    """The project's recipe, improved by its search when it declares one."""
    project = workspace.project
    if project.tune is None:
        return Recipe(project.model, project.train), None
    found = search(
        project.model, project.train, project.tune, project.task, frame.encoder, frame.data, workspace.progress
    )
    return Recipe(found.spec, found.config.model_copy(update={"workers": project.train.workers})), found


def make_version(
    workspace: Workspace, frame: Frame, recipe: Recipe, name: str, override_gate: str = "", compare: bool = True
) -> Candidate:
    """Fit, evaluate on the held-out rows, gate, register.

    The same recipe over the same snapshot by the same code is the same version, which is not made again. Raises
    GateFailed unless ``override_gate`` says why a candidate that fails shall be registered all the same.
    """
    fingerprint = _fingerprint(workspace, frame.snapshot, recipe)
    if made := workspace.registry.find(workspace.project.name, fingerprint):
        workspace.progress(f"{made} was made of the same data, code and settings before: not made again")
        return Candidate(
            made, GateReport.model_validate_json(made.tags[GATE_TAG]), json.loads(made.tags[SUMMARY]), True
        )
    data = frame.sabotaged(recipe.config.seed) if recipe.shuffle_labels else frame.data
    project, tell = workspace.project, workspace.progress
    fitted = fit(recipe.spec, recipe.config, project.task, frame.encoder, data, tell)
    with tempfile.TemporaryDirectory() as temporary:
        folder, test = Path(temporary), frame.part(TEST)
        labels, sample = test[LABEL].to_numpy(), test.slice(0, _PARITY_ROWS)
        parity = export(fitted, folder, sample)
        theirs = _champion_scores(workspace, test) if compare else None
        served = choose(project.gate, fitted, folder, test, labels, parity=parity, champion_scores=theirs)
        latency = latencies(evaluate.session(folder / MODEL), fitted.scored(), fitted.encoder.encode(sample))
        tell(f"exported in {served}; {runtime_line(latency)}")
        _write_bundle(workspace, frame, fitted, folder, served.precision)
        quality = tasks.evaluate(project.task, served.scores, labels)
        report = served.report
        for check in report.checks:
            tell(f"gate {'pass' if check.passed else 'FAIL'}: {check.name}: {check.reason}")
        if not report.passed and not override_gate:
            _log_refused(workspace, name, recipe, report, quality)
            raise GateFailed(
                f"{name} of {project.name} fails its gate: " + "; ".join(c.reason for c in report.failures),
                "it is not registered; the run and its figures are in MLflow",
            )
        if not report.passed:
            tell(f"registered all the same: {override_gate}")
        with workspace.registry.run(project.name, name) as run:
            _log(run, workspace, frame, recipe, fitted, quality)
            run.metrics(latency)
            tags = _tags(workspace, frame, fingerprint, report, quality, override_gate)
            tags |= {PRECISION: str(served), RUNTIME: runtime_line(latency)}
            version = workspace.registry.register(project.name, run, folder, tags)
    tell(f"registered {version}: {_told(quality)}")
    return Candidate(version, report, quality, False)


def reference_of(workspace: Workspace, version: ModelVersion) -> bytes:
    """The reference profile that travels with a version."""
    return (workspace.registry.fetch(version) / PROFILE).read_bytes()


def output_column(workspace: Workspace) -> Column:
    """The column under which a model's output is profiled."""
    multiclass = workspace.project.task.kind == "multiclass"
    return Column(name=_PREDICTED_COLUMN, kind="category") if multiclass else Column(name=_SCORE_COLUMN, kind="number")


def _write_bundle(workspace: Workspace, frame: Frame, fitted: FitResult, folder: Path, precision: Precision) -> None:
    """Manifest and reference profile beside the exported model."""
    project = workspace.project
    Manifest(
        model=project.name,
        task=project.task,
        features=project.features,
        feature_hash=project.features.content_hash,
        encoder=frame.encoder,
        snapshot=frame.snapshot,
        code_version=workspace.code_version,
        recipe={"model": fitted.spec.parameters, "train": fitted.config.model_dump(mode="json")},
        metrics=fitted.metrics,
        precision=precision,
    ).save(folder)
    (folder / PROFILE).write_bytes(_reference(workspace, frame, folder).to_bytes())


def _reference(workspace: Workspace, frame: Frame, folder: Path) -> ReferenceProfile:
    """Profile the training rows, and the model's output on them, by the windows of the drift policy."""
    window_s = workspace.project.drift.window_s
    output, train = output_column(workspace), frame.part(TRAIN)
    scored = train.append_column(output.name, _output(workspace, evaluate.score_table(folder, train)))
    columns = (*workspace.project.features.columns, output)
    return ReferenceProfile.build(profile_windows(scored, columns, window_s, AS_OF), window_s)


def _output(workspace: Workspace, scores: np.ndarray) -> pa.Array:
    task = workspace.project.task
    if task.kind == "multiclass":
        return pa.array(np.asarray(task.classes)[scores.argmax(axis=1)])
    return pa.array(scores, pa.float64())


def _champion_scores(workspace: Workspace, test: pa.Table) -> np.ndarray | None:
    champion = workspace.registry.aliased(workspace.project.name, CHAMPION)
    return evaluate.score_table(workspace.registry.fetch(champion), test) if champion else None


def _fingerprint(workspace: Workspace, snapshot: Snapshot, recipe: Recipe) -> str:
    project = workspace.project
    body = {
        "snapshot": [snapshot.table, snapshot.id],
        "features": project.features.content_hash,
        "task": project.task.model_dump(mode="json"),
        "model": recipe.spec.name,
        "parameters": _flat(recipe.spec, recipe.config),
        "shuffled": recipe.shuffle_labels,
        "gate": project.gate.model_dump(mode="json"),
        "code": workspace.code_version,
    }
    return hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()


def _flat(spec: ModelSpec, config: TrainConfig) -> dict[str, str | int | float | bool]:
    values = {"model": spec.name, **spec.parameters, **config.model_dump()}
    return {name: v if isinstance(v, str | int | float | bool) else str(v) for name, v in values.items()}


def _tags(
    workspace: Workspace,
    frame: Frame,
    fingerprint: str,
    report: GateReport,
    quality: Mapping[str, float],
    override: str,
) -> dict[str, str]:
    tags = {
        FINGERPRINT_TAG: fingerprint,
        GATE_TAG: report.model_dump_json(),
        SUMMARY: json.dumps(dict(quality)),
        "rayloop.snapshot": f"{frame.snapshot.table}@{frame.snapshot.id}",
        "rayloop.features": workspace.project.features.content_hash,
        "rayloop.code": workspace.code_version,
    }
    return tags | ({"rayloop.gate_override": override} if override else {})


def _log(
    run: Run, workspace: Workspace, frame: Frame, recipe: Recipe, fitted: FitResult, quality: Mapping[str, float]
) -> None:
    run.parameters(_flat(recipe.spec, recipe.config))
    run.metrics({f"test_{name}": value for name, value in quality.items() if np.isfinite(value)})
    run.metrics({f"validation_{name}": value for name, value in fitted.metrics.items() if np.isfinite(value)})
    for epoch in fitted.epochs:
        run.metrics({"train_loss": epoch.loss, "train_rows_per_s": epoch.rows_per_second}, step=epoch.number)
    run.tags({
        "rayloop.snapshot": f"{frame.snapshot.table}@{frame.snapshot.id}",
        "rayloop.features": workspace.project.features.content_hash,
        "rayloop.code": workspace.code_version,
    })  # fmt: skip


def _log_refused(
    workspace: Workspace, name: str, recipe: Recipe, report: GateReport, quality: Mapping[str, float]
) -> None:
    with workspace.registry.run(workspace.project.name, f"{name} (refused)") as run:
        run.parameters(_flat(recipe.spec, recipe.config))
        run.metrics({f"test_{metric}": value for metric, value in quality.items() if np.isfinite(value)})
        run.tags({GATE_TAG: report.model_dump_json()})


def _told(quality: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in quality.items()) + " on the held-out rows"
