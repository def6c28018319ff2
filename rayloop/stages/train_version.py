"""From a training frame to a registered version: search, fit, evaluate, gate, register."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from cluster.errors import GateFailed
from cluster.registry import FINGERPRINT_TAG, GATE_TAG, Run
from cluster.values import GateReport, ModelVersion, Snapshot
from features.definitions import Column
from features.manifest import PROFILE_FILE, Manifest
from features.profiles.reference_profile import ReferenceProfile, profile_windows
from features.split import TRAIN, VALIDATION
from features.types import AS_OF
from rayloop.context import ProjectContext
from rayloop.frame_view import FrameView
from rayloop.stages import model_cards
from rayloop.stages.compress import CompressionResult, compress
from rayloop.stages.evaluate_candidate import CandidateEvaluation, evaluate_candidate
from rayloop.stages.mlflow_callback import CurveLogger
from rayloop.stages.tune import run_search
from trainers import metrics
from trainers.config import ModelSpec, TrainConfig
from trainers.data.datasets import TrainingData
from trainers.export.compression import check_steps
from trainers.loop.checkpointer import Checkpoints
from trainers.loop.train_events import State
from trainers.loop.train_spec import Teacher
from trainers.loop.trainer import FitResult, calibrated, fit
from trainers.scoring import onnx_scorer
from trainers.scoring.latency_benchmark import format_latencies
from trainers.tuning.trial import TuneResult

SUMMARY = "rayloop.summary"
PRECISION = "rayloop.precision"
COMPRESSION = "rayloop.compression"
RUNTIME = "rayloop.runtime"
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


def choose_recipe(context: ProjectContext, frame: FrameView) -> tuple[Recipe, TuneResult | None]:
    """The project's recipe, improved by its search when it declares one."""
    project = context.project
    if project.tune is None:
        return Recipe(project.model, project.train), None
    found = run_search(context, frame, project.tune, metrics.primary(project.task).name)
    return Recipe(found.spec, found.config.model_copy(update={"workers": project.train.workers})), found


def build_version(
    context: ProjectContext,
    frame: FrameView,
    recipe: Recipe,
    name: str,
    override_gate: str = "",
    compare: bool = True,
) -> Candidate:
    """Fit, evaluate on the held-out rows, gate, register.

    The same recipe over the same snapshot by the same code is the same version, which is not made again. Raises
    GateFailed unless ``override_gate`` says why a candidate that fails shall be registered all the same.
    """
    fingerprint = _fingerprint(context, frame.snapshot, recipe)
    if made := context.registry.find_version(context.project.name, fingerprint):
        context.progress(f"{made} was made of the same data, code and settings before: not made again")
        return Candidate(made, GateReport.from_stored(made.tags[GATE_TAG]), json.loads(made.tags[SUMMARY]), True)
    data = frame.with_shuffled_labels(recipe.config.seed) if recipe.shuffle_labels else frame.data
    project, tell = context.project, context.progress
    with context.registry.run(project.name, name, key=fingerprint) as run, tempfile.TemporaryDirectory() as temporary:
        trained = _trained(context, frame, recipe, data, run, fingerprint, compare)
        folder = Path(temporary)
        seen = evaluate_candidate(context, frame, trained.fitted, folder, compare, trained.checks)
        seen = seen._replace(compression=str(trained))
        run.set_tags(_compression(seen))
        tell(f"exported in {seen.served}; {format_latencies(seen.latency)}")
        for check in seen.report.checks:
            tell(f"gate {'pass' if check.passed else 'FAIL'}: {check.name}: {check.reason}")
        if not seen.report.passed:
            _refuse_unless(override_gate, run, context, frame, recipe, name, seen, fingerprint)
        _write_bundle(context, frame, recipe, seen, folder)
        _log(run, context, frame, recipe, seen)
        model_cards.log_card(run, context, frame, name, seen, fingerprint, "" if seen.report.passed else override_gate)
        tags = _tags(context, frame, fingerprint, seen, override_gate)
        version = context.registry.register(project.name, run, folder, tags)
    tell(f"registered {version}: {_told(seen.quality)}")
    return Candidate(version, seen.report, seen.quality, False)


def _trained(
    context: ProjectContext,
    frame: FrameView,
    recipe: Recipe,
    data: TrainingData,
    run: Run,
    fingerprint: str,
    compare: bool,
) -> CompressionResult:
    """Train, followed by ``run``, then make the model smaller where the project says so.

    A training of the same fingerprint that was killed goes on where it was.
    """
    project, curves = context.project, CurveLogger(run)
    folder = f"{context.checkpoints}/{fingerprint[:16]}"

    def train(
        spec: ModelSpec, config: TrainConfig, step: int, start: State | None = None, teacher: Teacher | None = None
    ) -> FitResult:
        fitted = fit(
            spec,
            config,
            project.task,
            frame.encoder,
            data,
            context.progress,
            name=project.name,
            watch=(lambda seen: None) if step else curves,
            checkpoints=f"{folder}/{step}",
            start=start,
            teacher=teacher,
        )
        return calibrated(fitted, frame.rows_of(VALIDATION))

    if project.compress:
        inputs = data.encoded(frame.encoder, project.task, recipe.config.cache_mib).inputs
        check_steps(project.compress, recipe.spec, inputs, project.task)
    fitted = train(recipe.spec, recipe.config, 0)
    curves.complete(fitted.epochs)
    made = compress(context, frame, fitted, train, compare)
    Checkpoints(folder).clear()
    return made


def _refuse_unless(
    override: str,
    run: Run,
    context: ProjectContext,
    frame: FrameView,
    recipe: Recipe,
    name: str,
    seen: CandidateEvaluation,
    fingerprint: str,
) -> None:
    """Keep what a refused candidate has shown, and raise GateFailed; with an ``override`` only say so."""
    if override:
        context.progress(f"registered all the same: {override}")
        return
    project = context.project.name
    run.set_tags({"mlflow.runName": f"{name} (refused)"})
    _log_refused(run, recipe, seen)
    model_cards.log_card(run, context, frame, name, seen, fingerprint, "")
    raise GateFailed(
        f"{name} of {project} fails its gate: " + "; ".join(c.reason for c in seen.report.failures),
        f"it is not registered; its figures and model card: {context.settings.mlflow_server}/#/runs/{run.id}",
    )


def load_reference_profile(context: ProjectContext, version: ModelVersion) -> bytes:
    """The reference profile that travels with a version."""
    return (context.registry.fetch(version) / PROFILE_FILE).read_bytes()


def output_column(context: ProjectContext) -> Column:
    """The column under which a model's output is profiled."""
    multiclass = context.project.task.kind == "multiclass"
    return Column(name=_PREDICTED_COLUMN, kind="category") if multiclass else Column(name=_SCORE_COLUMN, kind="number")


def _write_bundle(
    context: ProjectContext, frame: FrameView, recipe: Recipe, seen: CandidateEvaluation, folder: Path
) -> None:
    """Manifest and reference profile beside the exported model. The recipe is what all of it began with: of that a retraining is made."""
    project = context.project
    Manifest(
        model=project.name,
        task=project.task,
        features=project.features,
        feature_hash=project.features.content_hash,
        encoder=frame.encoder,
        snapshot=frame.snapshot,
        code_version=context.code_version,
        recipe={"model": recipe.spec.parameters, "train": recipe.config.model_dump(mode="json")},
        metrics=seen.fitted.metrics,
        precision=seen.served.precision,
    ).save(folder)
    (folder / PROFILE_FILE).write_bytes(_reference(context, frame, folder).to_bytes())


def _reference(context: ProjectContext, frame: FrameView, folder: Path) -> ReferenceProfile:
    """Profile the training rows, and the model's output on them, by the windows of the drift policy."""
    window_s = context.project.drift.window_s
    output, train = output_column(context), frame.rows_of(TRAIN)
    scored = train.append_column(output.name, _output(context, onnx_scorer.score_table(folder, train)))
    columns = (*context.project.features.columns, output)
    return ReferenceProfile.build(profile_windows(scored, columns, window_s, AS_OF), window_s)


def _output(context: ProjectContext, scores: np.ndarray) -> pa.Array:
    task = context.project.task
    if task.kind == "multiclass":
        return pa.array(np.asarray(task.classes)[scores.argmax(axis=1)])
    return pa.array(scores, pa.float64())


def _fingerprint(context: ProjectContext, snapshot: Snapshot, recipe: Recipe) -> str:
    project = context.project
    body = {
        "snapshot": [snapshot.table, snapshot.id],
        "features": project.features.content_hash,
        "task": project.task.model_dump(mode="json"),
        "model": recipe.spec.name,
        "parameters": _flat(recipe.spec, recipe.config),
        "shuffled": recipe.shuffle_labels,
        "gate": project.gate.model_dump(mode="json"),
        "code": context.code_version,
    }
    # Versions of before there were such steps keep their fingerprints.
    body |= {"compress": [step.key for step in project.compress]} if project.compress else {}
    return hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()


def _flat(spec: ModelSpec, config: TrainConfig) -> dict[str, str | int | float | bool]:
    values = {"model": spec.name, **spec.parameters, **config.model_dump()}
    return {name: v if isinstance(v, str | int | float | bool) else str(v) for name, v in values.items()}


def _tags(
    context: ProjectContext, frame: FrameView, fingerprint: str, seen: CandidateEvaluation, override: str
) -> dict[str, str]:
    tags = {
        FINGERPRINT_TAG: fingerprint,
        GATE_TAG: seen.report.model_dump_json(),
        SUMMARY: json.dumps(seen.quality),
        PRECISION: str(seen.served),
        RUNTIME: format_latencies(seen.latency),
        **_origin(context, frame),
        **_compression(seen),
    }
    return tags | ({"rayloop.gate_override": override} if override else {})


def _compression(seen: CandidateEvaluation) -> dict[str, str]:
    return {COMPRESSION: seen.compression} if seen.compression else {}


def _origin(context: ProjectContext, frame: FrameView) -> dict[str, str]:
    return {
        "rayloop.snapshot": f"{frame.snapshot.table}@{frame.snapshot.id}",
        "rayloop.features": context.project.features.content_hash,
        "rayloop.code": context.code_version,
    }


def _log(run: Run, context: ProjectContext, frame: FrameView, recipe: Recipe, seen: CandidateEvaluation) -> None:
    fitted = seen.fitted
    run.log_parameters(_flat(recipe.spec, recipe.config))
    run.log_metrics({f"test_{name}": value for name, value in seen.quality.items()})
    run.log_metrics({f"validation_{name}": value for name, value in fitted.metrics.items()})
    run.log_metrics({**seen.latency, "temperature": fitted.temperature})
    run.set_tags(_origin(context, frame))


def _log_refused(run: Run, recipe: Recipe, seen: CandidateEvaluation) -> None:
    run.log_parameters(_flat(recipe.spec, recipe.config))
    run.log_metrics({f"test_{metric}": value for metric, value in seen.quality.items()})
    run.set_tags({GATE_TAG: seen.report.model_dump_json()})


def _told(quality: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in quality.items()) + " on the held-out rows"
