"""Export of a fitted model: the float32 file, or the int8 one where the project asks for it and the gate accepts it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from cluster.values import GateReport
from features.manifest import MODEL_FILE, Precision
from features.offline.training_frame import LABEL
from trainers.evaluation.quality_gate import INT8, GatePolicy, ScoredCandidate, check_candidate
from trainers.export.onnx_export import export, export_portable
from trainers.export.quantize import quantize
from trainers.loop.trainer import FitResult
from trainers.scoring import onnx_scorer

PARITY_ROWS = 2000
"""Held-out rows on which the exported model is compared with the training module."""


class GateRows(NamedTuple):
    """Held-out rows of the frame, and the champion's scores of them; None without a champion."""

    table: pa.Table
    champion_scores: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray:
        """Labels of the rows."""
        labels: np.ndarray = self.table[LABEL].to_numpy()
        return labels

    @property
    def sample(self) -> pa.Table:
        """The rows for parity."""
        return self.table.slice(0, PARITY_ROWS)


class ExportedModel(NamedTuple):
    """An exported model on the held-out rows.

    Attributes:
        scores: Scores by the model.onnx in the bundle.
        report: The gate's checks of these scores.
        parity: Largest difference from the training module's scores.
        precision: Precision of the weights in the bundle.
        int8_refusal: Why the project's int8 weights are not used; empty when they are, or nothing asks for them.
    """

    scores: np.ndarray
    report: GateReport
    parity: float
    precision: Precision = "float32"
    int8_refusal: str = ""

    def __str__(self) -> str:
        return f"{self.precision} (int8 refused: {self.int8_refusal})" if self.int8_refusal else self.precision


def export_and_check(
    policy: GatePolicy,
    fitted: FitResult,
    folder: Path,
    rows: GateRows,
    *,
    original_scores: np.ndarray | None = None,
    compression: str = "",
) -> ExportedModel:
    """Export a model in float32 and check its scores.

    Args:
        policy: Limits of the gate.
        fitted: The model.
        folder: Where its files go.
        rows: Rows to score.
        original_scores: Scores of the model before compression; None when it is not compressed.
        compression: Description of the compression.
    """
    parity = export(fitted, folder, rows.sample)
    return _check(policy, fitted, folder, rows, parity, original_scores, compression)


def export_best_precision(policy: GatePolicy, fitted: FitResult, folder: Path, rows: GateRows) -> ExportedModel:
    """Export a model, with int8 weights where ``TrainConfig.quantize`` asks for them and the gate accepts them.

    A model that fails the gate in float32 is not tried in int8.

    Args:
        policy: Limits of the gate.
        fitted: The model.
        folder: Where its files go.
        rows: Rows to score.
    """
    exact = export_and_check(policy, fitted, folder, rows)
    if fitted.config.quantize == "none":
        return exact
    if not exact.report.passed:
        return exact._replace(int8_refusal="it already fails in float32")
    original = (folder / MODEL_FILE).read_bytes()
    quantize(original, folder / MODEL_FILE)
    parity = max(exact.parity, export_portable(fitted, folder, rows.table))
    quantized = _check(policy, fitted, folder, rows, parity, exact.scores, INT8)
    if quantized.report.passed:
        return quantized._replace(precision="int8")
    (folder / MODEL_FILE).write_bytes(original)
    export_portable(fitted, folder, rows.table)
    return exact._replace(int8_refusal="; ".join(check.reason for check in quantized.report.failures))


def _check(
    policy: GatePolicy,
    fitted: FitResult,
    folder: Path,
    rows: GateRows,
    parity: float,
    original_scores: np.ndarray | None,
    compression: str,
) -> ExportedModel:
    scores = onnx_scorer.score(onnx_scorer.open_session(folder / MODEL_FILE), fitted.encoder.encode(rows.table))
    candidate = ScoredCandidate(
        task=fitted.task,
        scores=scores,
        labels=rows.labels,
        parity=parity,
        train_metrics=fitted.train_metrics,
        validation_metrics=fitted.metrics,
        champion_scores=rows.champion_scores,
        original_scores=original_scores,
        compression=compression,
    )
    return ExportedModel(scores, check_candidate(policy, candidate), parity)
