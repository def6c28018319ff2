"""Evaluate a candidate as it would be served: precision, gate, assessment, latency, on the held-out rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa

from cluster.values import Check, GateReport
from features.attributions.sampled_shapley import ScoreFunction
from features.manifest import MODEL_FILE
from features.python_models.bundle import read_files
from features.split import TEST, TRAIN, VALIDATION
from features.types import LABEL
from rayloop.frame_view import FrameView, thin_rows
from rayloop.stages.candidate import CandidateBuild
from rayloop.stages.untrained_version import batch_parity
from trainers import metrics
from trainers.data.batches import EncodedRows
from trainers.data.encoding_task import label_array
from trainers.evaluation import assessment, fairness, serving_budget
from trainers.evaluation.assessment import Assessment, CandidateEvidence, ScoredSplit
from trainers.evaluation.fairness import MitigationResult
from trainers.evaluation.quality_gate import GatePolicy, ScoredCandidate, check_candidate
from trainers.export.member_budget import meet_budget
from trainers.export.precision_selection import ExportedModel, GateRows, export_best_precision
from trainers.loop.checkpointer import Checkpointer
from trainers.loop.trainer import FitRequest, FitResult, calibrate, fit
from trainers.loop.validation import score_rows
from trainers.scoring import onnx_scorer
from trainers.scoring.latency_benchmark import measure_calls, measure_latencies
from trainers.scoring.python_scorer import PythonScorer, score_bundle

TRAIN_SAMPLE_ROWS = 20_000


class CandidateEvaluation(NamedTuple):
    """A candidate's model, the file of it that is served, and all results."""

    fit_result: FitResult
    exported_model: ExportedModel
    evidence: CandidateEvidence
    assessment: Assessment
    report: GateReport
    quality: dict[str, float]
    """Metrics on the held-out rows."""
    latency: dict[str, float]
    """Microseconds, by name of the statistic."""
    size: int
    """Of the model file, in bytes."""
    champion: str
    """The version it was compared with; empty when there was none."""
    compression: str = ""
    """What became of the compression steps."""


def evaluate_candidate(
    build: CandidateBuild, fit_result: FitResult, folder: Path, compression_checks: tuple[Check, ...] = ()
) -> CandidateEvaluation:
    """Export a model, choose its precision, assess and gate it.

    Args:
        build: The candidate.
        fit_result: Its model.
        folder: Where the model file goes.
        compression_checks: Checks of the compression steps, which become part of the report.
    """
    gate = build.context.project.gate
    rows, champion = gate_rows(build)
    served = _python_model(gate, fit_result, folder, rows) if fit_result.spec.is_python else None
    exported_model, score, latency, size = served or _exported_model(gate, fit_result, folder, rows)
    evidence = _evidence(build.frame, fit_result, score, exported_model.scores, rows.champion_scores)
    assessed = assessment.assess(gate, evidence)
    more = (*assessment.check(gate, fit_result.task, assessed), *serving_budget.check(gate.budget, latency, size))
    return CandidateEvaluation(
        fit_result=fit_result,
        exported_model=exported_model,
        evidence=evidence,
        assessment=assessed,
        report=GateReport(checks=(*exported_model.report.checks, *compression_checks, *more)),
        quality=metrics.evaluate(fit_result.task, exported_model.scores, rows.labels),
        latency=latency,
        size=size,
        champion=champion,
    )


class _ServedModel(NamedTuple):
    """A candidate as it would be served."""

    exported_model: ExportedModel
    score: ScoreFunction
    latency: dict[str, float]
    size: int


def _exported_model(gate: GatePolicy, fit_result: FitResult, folder: Path, rows: GateRows) -> _ServedModel:
    exported_model = export_best_precision(gate, fit_result, folder, rows)
    session = onnx_scorer.open_session(folder / MODEL_FILE)
    latency = measure_latencies(session, fit_result.build_model().score, fit_result.encoder.encode(rows.sample))
    size = (folder / MODEL_FILE).stat().st_size
    return _ServedModel(exported_model, partial(onnx_scorer.score, session), latency, size)


def _python_model(gate: GatePolicy, fit_result: FitResult, folder: Path, rows: GateRows) -> _ServedModel:
    model = cast(PythonScorer, fit_result.build_model())
    scores, arrays = model.score_table(rows.table), fit_result.encoder.encode(rows.sample)
    parity = batch_parity(model, fit_result.task, arrays, fit_result.inputs.label_std)
    measured = fit_result.task, scores, rows.labels, parity, fit_result.train_metrics, fit_result.metrics
    candidate = ScoredCandidate(*measured, rows.champion_scores, is_exported=False)
    exported_model = ExportedModel(scores, check_candidate(gate, candidate), parity)
    size = sum(map(len, read_files(folder).values()))
    return _ServedModel(exported_model, model.score_perturbed, measure_calls(model.score, arrays), size)


def evaluate_without_mitigation(build: CandidateBuild) -> MitigationResult | None:
    """Train the recipe once more without weights of groups, unless that is off, and measure its groups.

    Returns:
        The comparison, which is empty where there is none; None for a candidate that was trained without such weights.
    """
    context, frame, recipe = build.context, build.frame, build.recipe
    project, fair = context.project, context.project.gate.fairness
    if not frame.reweighed_by or recipe.shuffle_labels:
        return None
    # A version that is continued may have such weights in it already.
    if not fair.compare or recipe.start is not None:
        return MitigationResult(method=fair.mitigate)
    context.progress("trains once more without weights of groups, for the model card")
    folder = f"{context.checkpoints}/{build.fingerprint[:16]}/0w"
    request = FitRequest(recipe.spec, recipe.config, project.task, frame.encoder)
    fit_result = fit(request, frame.unweighted_data, context.progress, name=project.name, checkpoints=folder)
    Checkpointer(folder).clear()
    validation, test = frame.rows_of(VALIDATION), frame.rows_of(TEST)
    fit_result = meet_budget(calibrate(fit_result, validation), project.gate.budget, validation, context.progress)
    model, labels = fit_result.build_model(), label_array(test[LABEL])
    scores = score_rows(model, EncodedRows(**frame.encoder.encode(test), labels=labels))
    return MitigationResult(
        method=fair.mitigate,
        groups=fairness.measure(fair, project.task, test, scores, labels),
        metrics=metrics.evaluate(project.task, scores, labels),
    )


def gate_rows(build: CandidateBuild) -> tuple[GateRows, str]:
    """Return the held-out rows with the champion's scores of them, and the champion; empty when there is none."""
    context, test = build.context, build.frame.rows_of(TEST)
    champion = context.champion
    scores = score_bundle(context.registry.fetch(champion), test) if champion else None
    return GateRows(test, scores), str(champion or "")


def _evidence(
    frame: FrameView,
    fit_result: FitResult,
    score: ScoreFunction,
    scores: np.ndarray,
    champion_scores: np.ndarray | None,
) -> CandidateEvidence:
    """Score the rows of the frame; of the training rows a sample, without scores."""

    def scored_split(table: pa.Table, scores: np.ndarray | None) -> ScoredSplit:
        arrays = fit_result.encoder.encode(table)
        return ScoredSplit(table, arrays, table[LABEL].to_numpy(), score(arrays) if scores is None else scores)

    train = frame.rows_of(TRAIN)
    sample = thin_rows(train, TRAIN_SAMPLE_ROWS)
    return CandidateEvidence(
        task=fit_result.task,
        inputs=fit_result.inputs,
        score=score,
        train=scored_split(sample, np.empty(0, np.float32)),
        validation=scored_split(frame.rows_of(VALIDATION), None),
        test=scored_split(frame.rows_of(TEST), scores),
        temperature=fit_result.temperature,
        champion_scores=champion_scores,
    )
