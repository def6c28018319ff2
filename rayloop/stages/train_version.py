"""From a training frame to a registered version: search, fit, evaluate, gate, register."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.errors import GateFailed
from cluster.fingerprint import json_fingerprint
from cluster.registry import FINGERPRINT_TAG, GATE_TAG, Run
from cluster.values import GateReport
from features.manifest import PROFILE_FILE, Manifest
from features.profiles.profile import append_output, output_column
from features.profiles.reference_profile import ReferenceProfile, profile_windows
from features.python_models.bundle import PYTHON_TAG
from features.python_models.model_batch import raw_encoder
from features.split import PARTS, TRAIN, VALIDATION
from features.types import AS_OF
from rayloop.context import ProjectContext
from rayloop.frame_view import FrameView
from rayloop.retraining.warm_start import STARTED_FROM, store_starting_point
from rayloop.stages import model_cards
from rayloop.stages.candidate import Candidate, CandidateBuild, Recipe
from rayloop.stages.compress import CompressionResult, compress
from rayloop.stages.evaluate_candidate import CandidateEvaluation, evaluate_candidate, evaluate_without_mitigation
from rayloop.stages.mlflow_callback import CurveLogger
from rayloop.stages.tune import run_search
from rayloop.stages.untrained_version import (
    imported_encoder,
    imported_spec,
    load_imported,
    load_python,
    python_encoder,
    python_record,
)
from trainers import metrics
from trainers.config import ModelSpec, TrainConfig
from trainers.evaluation.quality_gate import GatePolicy
from trainers.export.compression import check_steps
from trainers.export.explainer_export import export_explainer
from trainers.export.member_budget import meet_budget
from trainers.loop.checkpointer import Checkpointer
from trainers.loop.train_events import Weights
from trainers.loop.train_spec import Teacher
from trainers.loop.trainer import FitRequest, FitResult, calibrate, fit
from trainers.scoring import onnx_scorer
from trainers.scoring.latency_benchmark import format_latencies
from trainers.scoring.python_scorer import PythonScorer
from trainers.tuning.trial import TuneResult

SUMMARY = "rayloop.summary"
PRECISION = "rayloop.precision"
COMPRESSION = "rayloop.compression"
RUNTIME = "rayloop.runtime"
SELECTION = "rayloop.selection"
WEAK_LABELS = "rayloop.weak_labels"


def choose_recipe(context: ProjectContext, frame: FrameView) -> tuple[Recipe, TuneResult | None]:
    """Return the project's recipe, improved by its search when it declares one, and the search's result."""
    project = context.project
    if project.tune is None:
        return Recipe(project.model, project.train), None
    result = run_search(context, frame, project.tune, metrics.primary_metric(project.task).name)
    return Recipe(result.spec, result.config.model_copy(update={"workers": project.train.workers})), result


def build_first_version(context: ProjectContext, frame: FrameView) -> tuple[Candidate, Recipe]:
    """Search, train with the best settings, gate and register."""
    with context.progress.stage("tune"):
        recipe, _ = choose_recipe(context, frame)
    with context.progress.stage("train"):
        return build_version(context, frame, recipe, "winner"), recipe


def build_version(
    context: ProjectContext, frame: FrameView, recipe: Recipe, name: str, override_gate: str = ""
) -> Candidate:
    """Fit, evaluate on the held-out rows, gate, register.

    The same recipe on the same snapshot with the same code is the same version and is not built again.

    Args:
        context: The project.
        frame: The training frame.
        recipe: What to train and how.
        name: Name of the MLflow run.
        override_gate: Reason to register a candidate that fails the gate.

    Raises:
        GateFailed: The candidate fails the gate, and there is no ``override_gate``.
    """
    if recipe.spec.is_imported:
        recipe = recipe._replace(spec=imported_spec(context), config=TrainConfig())
        frame = frame.with_encoder(imported_encoder(context))
    if recipe.spec.is_python:
        recipe = recipe._replace(config=TrainConfig())
        frame = frame.with_encoder(python_encoder(context, frame))
    if recipe.start is not None:
        frame = frame.with_encoder(recipe.start.encoder)
    fingerprint = _fingerprint(context, frame, recipe)
    if version := context.registry.find_version(context.project.name, fingerprint):
        context.progress(f"reusing {version}: same data, code and settings")
        report = GateReport.from_stored(version.tags[GATE_TAG])
        return Candidate(version, report, json.loads(version.tags[SUMMARY]))
    build = CandidateBuild(context, frame, recipe, name, fingerprint, override_gate)
    with (
        context.registry.run(context.project.name, name, key=fingerprint) as run,
        tempfile.TemporaryDirectory() as temporary,
    ):
        folder = Path(temporary)
        evaluation = _train_and_evaluate(build, run, folder)
        if not evaluation.report.passed:
            _refuse_unless_overridden(build, run, evaluation)
        _write_bundle(build, evaluation, folder)
        _log(run, build, evaluation)
        model_cards.log_card(run, build, evaluation)
        version = context.registry.register(context.project.name, run, folder, _tags(build, evaluation))
    figures = ", ".join(f"{name} {value:.4f}" for name, value in evaluation.quality.items())
    context.progress(f"registered {version}: {figures} on the held-out rows")
    return Candidate(version, evaluation.report, evaluation.quality)


def _train_and_evaluate(build: CandidateBuild, run: Run, folder: Path) -> CandidateEvaluation:
    compressed = _train(build, run, folder)
    evaluation = evaluate_candidate(build, compressed.fit_result, folder, compressed.checks)
    evaluation = evaluation._replace(compression=str(compressed))
    if mitigation := evaluate_without_mitigation(build):
        assessed = evaluation.assessment.model_copy(update={"mitigation": mitigation})
        evaluation = evaluation._replace(assessment=assessed)
    run.set_tags(_compression(evaluation))
    progress = build.context.progress
    progress(f"exported in {evaluation.exported_model}; {format_latencies(evaluation.latency)}")
    for check in evaluation.report.checks:
        progress(f"gate {'pass' if check.passed else 'FAIL'}: {check.name}: {check.reason}")
    return evaluation


def _train(build: CandidateBuild, run: Run, folder: Path) -> CompressionResult:
    """Train with curves in ``run``, then compress. A killed training run with the same fingerprint is resumed."""
    if build.recipe.spec.is_python:
        return CompressionResult(load_python(build, folder))
    if build.recipe.spec.is_imported:
        return CompressionResult(load_imported(build))
    context, frame, recipe = build.context, build.frame, build.recipe
    project, curves = context.project, CurveLogger(run)
    checkpoints = f"{context.checkpoints}/{build.fingerprint[:16]}"
    data = frame.with_shuffled_labels(recipe.config.seed) if recipe.shuffle_labels else frame.data
    point = recipe.start.point if recipe.start else None

    def train(
        spec: ModelSpec, config: TrainConfig, step: int, start: Weights | None = None, teacher: Teacher | None = None
    ) -> FitResult:
        fit_result = fit(
            FitRequest(spec, config, project.task, frame.encoder, start, teacher, point.inputs if point else None),
            data,
            context.progress,
            name=project.name,
            on_event=(lambda event: None) if step else curves,
            checkpoints=f"{checkpoints}/{step}",
        )
        return calibrate(fit_result, frame.rows_of(VALIDATION))

    if project.compress:
        inputs = data.encode(frame.encoder, project.task, recipe.config.cache_mib).inputs
        check_steps(project.compress, recipe.spec, inputs, project.task)
    fit_result = train(recipe.spec, recipe.config, 0, point.state if point else None)
    fit_result = meet_budget(fit_result, project.gate.budget, frame.rows_of(VALIDATION), context.progress)
    if fit_result.selection is None:
        store_starting_point(run, fit_result)
    else:
        context.progress(fit_result.selection.reason())
    curves.complete(fit_result.epochs)
    compressed = compress(build, fit_result, train)
    Checkpointer(checkpoints).clear()
    return compressed


def _refuse_unless_overridden(build: CandidateBuild, run: Run, evaluation: CandidateEvaluation) -> None:
    """Log a refused candidate's figures and card, and raise GateFailed."""
    context, name = build.context, build.name
    if build.override_gate:
        context.progress(f"gate overridden: {build.override_gate}")
        return
    run.set_tags({"mlflow.runName": f"{name} (refused)", GATE_TAG: evaluation.report.model_dump_json()})
    _log_quality(run, build, evaluation)
    model_cards.log_card(run, build, evaluation)
    url = f"{context.settings.mlflow_server}/#/runs/{run.id}"
    raise GateFailed(
        "gate.failed",
        model=context.project.name,
        candidate=name,
        checks=[check.name for check in evaluation.report.failures],
        reasons="; ".join(check.reason for check in evaluation.report.failures),
        url=url,
    )


def _write_bundle(build: CandidateBuild, evaluation: CandidateEvaluation, folder: Path) -> None:
    """Write manifest, reference profile and explainer beside the model; a Python model has no explainer.

    The manifest has the recipe before compression: a retraining starts from it.
    """
    project, frame, recipe = build.context.project, build.frame, build.recipe
    selection = evaluation.fit_result.selection
    Manifest(
        model=project.name,
        task=project.task,
        features=project.features,
        feature_hash=project.features.content_hash,
        # That of a Python model has every text of the frame, and only served to evaluate it.
        encoder=raw_encoder(project.features.columns) if recipe.spec.is_python else frame.encoder,
        snapshot=frame.snapshot,
        code_version=build.context.code_version,
        recipe=recipe.as_json() | ({"chosen": selection.manifest()} if selection else {}),
        metrics=evaluation.fit_result.metrics,
        class_shares=evaluation.fit_result.inputs.class_shares,
        precision=evaluation.exported_model.precision,
    ).save(folder)
    train, fit_result = frame.rows_of(TRAIN), evaluation.fit_result
    if fit_result.spec.is_python:
        scores = fit_result.build_model().score(frame.encoder.encode(train))
    else:
        scores = onnx_scorer.score_table(folder, train)
        export_explainer(fit_result, folder, train, project.reasons)
    (folder / PROFILE_FILE).write_bytes(_reference(build.context, train, scores).to_bytes())


def _reference(context: ProjectContext, train: pa.Table, scores: np.ndarray) -> ReferenceProfile:
    """Profile the training rows, and the model's output on them, by the windows of the drift policy."""
    project = context.project
    scored = append_output(train, project.task, scores)
    columns = (*project.features.columns, output_column(project.task))
    window_s = project.drift.window_s
    return ReferenceProfile.build(profile_windows(scored, columns, window_s, AS_OF), window_s)


def _fingerprint(context: ProjectContext, frame: FrameView, recipe: Recipe) -> str:
    project = context.project
    body = {
        "snapshot": [frame.snapshot.table, frame.snapshot.id],
        "features": project.features.content_hash,
        "task": project.task.model_dump(mode="json"),
        "model": recipe.spec.name,
        "parameters": _flat(recipe),
        "shuffled": recipe.shuffle_labels,
        "gate": _gate_key(project.gate),
        "code": context.code_version,
        **frame.weights_key,
    }
    # Only where there are steps: versions from before compression existed keep their fingerprints.
    body |= {"compress": [step.key for step in project.compress]} if project.compress else {}
    body |= {"start": recipe.start.version.fingerprint} if recipe.start else {}
    if recipe.spec.is_python:
        body |= {"python": python_record(context).model_dump(mode="json", exclude={"schema_version"})}
    return json_fingerprint(body, default=str)


def _gate_key(gate: GatePolicy) -> dict[str, Any]:
    """The gate as it determines a version; settings that came later, only where they are set."""
    key = gate.model_dump(mode="json")
    fairness = key["fairness"]
    # What is watched in live traffic changes no version.
    del fairness["live"]
    if fairness["mitigate"] == "none":
        del fairness["mitigate"], fairness["compare"]
    return key


def _flat(recipe: Recipe) -> dict[str, str | int | float | bool]:
    settings = {} if recipe.spec.is_fixed else recipe.config.model_dump()
    if recipe.spec.is_auto:
        settings["minutes"] = recipe.spec.minutes
    values = {"model": recipe.spec.name, **settings, **recipe.spec.parameters}
    return {name: v if isinstance(v, str | int | float | bool) else str(v) for name, v in values.items()}


def _tags(build: CandidateBuild, evaluation: CandidateEvaluation) -> dict[str, str]:
    model = evaluation.fit_result.model
    tags = {
        FINGERPRINT_TAG: build.fingerprint,
        GATE_TAG: evaluation.report.model_dump_json(),
        SUMMARY: json.dumps(evaluation.quality),
        PRECISION: str(evaluation.exported_model),
        RUNTIME: format_latencies(evaluation.latency),
        **_origin(build),
        **_compression(evaluation),
        **({PYTHON_TAG: model.record.model_dump_json()} if isinstance(model, PythonScorer) else {}),
    }
    if selection := evaluation.fit_result.selection:
        tags[SELECTION] = selection.describe()
    return tags | ({"rayloop.gate_override": build.override_gate} if build.override_gate else {})


def _compression(evaluation: CandidateEvaluation) -> dict[str, str]:
    return {COMPRESSION: evaluation.compression} if evaluation.compression else {}


def _origin(build: CandidateBuild) -> dict[str, str]:
    return {
        "rayloop.snapshot": f"{build.frame.snapshot.table}@{build.frame.snapshot.id}",
        "rayloop.features": build.context.project.features.content_hash,
        "rayloop.code": build.context.code_version,
        **({WEAK_LABELS: str(build.frame.weak_labels)} if build.frame.weak_labels else {}),
        **({STARTED_FROM: f"v{build.recipe.start.version.version}"} if build.recipe.start else {}),
    }


def _log_quality(run: Run, build: CandidateBuild, evaluation: CandidateEvaluation) -> None:
    run.log_parameters(_flat(build.recipe))
    run.log_metrics({f"test_{name}": value for name, value in evaluation.quality.items()})
    run.log_metrics({f"purged_{part}": build.frame.purged.total(part) for part in PARTS})


def _log(run: Run, build: CandidateBuild, evaluation: CandidateEvaluation) -> None:
    fit_result = evaluation.fit_result
    _log_quality(run, build, evaluation)
    run.log_metrics({f"validation_{name}": value for name, value in fit_result.metrics.items()})
    run.log_metrics({**evaluation.latency, "temperature": fit_result.temperature})
    run.set_tags(_origin(build))
