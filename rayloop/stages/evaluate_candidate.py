"""A fitted model as it would be served, looked at from every side on the frame's held-out rows."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from cluster.names import CHAMPION
from cluster.values import Check, GateReport, ModelVersion
from features.manifest import MODEL_FILE
from features.offline.training_frame import LABEL
from features.split import TEST, TRAIN, VALIDATION
from rayloop.context import ProjectContext
from rayloop.frame_view import FrameView
from trainers import metrics
from trainers.evaluation import assessment, serving_budget
from trainers.evaluation.assessment import Assessment, CandidateEvidence, ScoredSplit
from trainers.export.precision_selection import ExportedModel, GateRows, export_best_precision
from trainers.loop.trainer import FitResult
from trainers.scoring import onnx_scorer
from trainers.scoring.latency_benchmark import measure_latencies

TRAIN_SAMPLE_ROWS = 20_000


class CandidateEvaluation(NamedTuple):
    """A fitted model, the file of it that is served, and all that was found. ``latency`` in microseconds, ``size`` in bytes.

    ``champion`` names the version it was compared with, empty when there was none; ``compression`` says which steps were taken.
    """

    fitted: FitResult
    served: ExportedModel
    evidence: CandidateEvidence
    found: Assessment
    report: GateReport
    quality: dict[str, float]
    latency: dict[str, float]
    size: int
    champion: str
    compression: str = ""


def evaluate_candidate(
    context: ProjectContext,
    frame: FrameView,
    fitted: FitResult,
    folder: Path,
    compare: bool,
    compressed: tuple[Check, ...] = (),
) -> CandidateEvaluation:
    """Export into ``folder``, choose the precision, assess, gate. ``compare`` with the champion where there is one.

    ``compressed`` are checks that the model has passed on its way to its size.
    """
    gate, test = context.project.gate, frame.rows_of(TEST)
    champion = context.registry.version_by_alias(context.project.name, CHAMPION) if compare else None
    theirs = champion_scores(context, champion, test)
    rows = GateRows(test, theirs)
    served = export_best_precision(gate, fitted, folder, rows)
    latency = measure_latencies(
        onnx_scorer.open_session(folder / MODEL_FILE), fitted.scored(), fitted.encoder.encode(rows.sample)
    )
    given = _evidence(frame, fitted, folder, served.scores, theirs)
    found, size = assessment.assess(gate, given), (folder / MODEL_FILE).stat().st_size
    more = (*assessment.check(gate, fitted.task, found), *serving_budget.check(gate.budget, latency, size))
    return CandidateEvaluation(
        fitted=fitted,
        served=served,
        evidence=given,
        found=found,
        report=GateReport(checks=(*served.report.checks, *compressed, *more)),
        quality=metrics.evaluate(fitted.task, served.scores, rows.labels),
        latency=latency,
        size=size,
        champion=str(champion or ""),
    )


def champion_scores(context: ProjectContext, champion: ModelVersion | None, test: pa.Table) -> np.ndarray | None:
    return onnx_scorer.score_table(context.registry.fetch(champion), test) if champion else None


def _evidence(
    frame: FrameView, fitted: FitResult, folder: Path, scores: np.ndarray, champion_scores: np.ndarray | None
) -> CandidateEvidence:
    """The rows of the frame as the model.onnx in ``folder`` scores them; of the training rows a sample, not scored."""
    model = onnx_scorer.open_session(folder / MODEL_FILE)

    def part(table: pa.Table, scores: np.ndarray | None) -> ScoredSplit:
        arrays = fitted.encoder.encode(table)
        return ScoredSplit(
            table, arrays, table[LABEL].to_numpy(), onnx_scorer.score(model, arrays) if scores is None else scores
        )

    train = frame.rows_of(TRAIN)
    sample = train.take(np.arange(0, train.num_rows, max(1, -(-train.num_rows // TRAIN_SAMPLE_ROWS))))
    return CandidateEvidence(
        task=fitted.task,
        inputs=fitted.inputs,
        score=lambda arrays: onnx_scorer.score(model, arrays),
        train=part(sample, np.empty(0, np.float32)),
        validation=part(frame.rows_of(VALIDATION), None),
        test=part(frame.rows_of(TEST), scores),
        temperature=fitted.temperature,
        champion_scores=champion_scores,
    )
