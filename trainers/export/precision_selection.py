"""Export of a fitted model: the float32 file, or the int8 one where the project asks for it and the gate accepts it.

int8 is dynamic quantization by ONNX Runtime: weights of matrix products are rounded per output column when the file is
written, activations per batch at run time (Jacob et al. 2018, "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference", sections 2.1 and 2.3).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pyarrow as pa
from onnxruntime.quantization import QuantType, quantize_dynamic

from cluster.log_suppression import suppress_logs
from cluster.values import GateReport
from features.manifest import MODEL_FILE, Precision
from features.types import LABEL
from trainers.evaluation.quality_gate import INT8, GatePolicy, ScoredCandidate, check_candidate
from trainers.export.onnx_export import export, export_portable
from trainers.loop.trainer import FitResult
from trainers.scoring import onnx_scorer

PARITY_ROWS = 2000
"""Held-out rows on which the exported model is compared with the trained model."""


class GateRows(NamedTuple):
    """Held-out rows of the frame, and the scores of other models that a candidate's scores are compared with.

    Attributes:
        table: The rows.
        champion_scores: Scores of the champion; None without a champion.
        original_scores: Scores of the model before compression or quantization; None when it is neither.
        compression: Description of the compression.
    """

    table: pa.Table
    champion_scores: np.ndarray | None = None
    original_scores: np.ndarray | None = None
    compression: str = ""

    @property
    def labels(self) -> np.ndarray:
        """Labels of the rows."""
        return np.asarray(self.table[LABEL].to_numpy())

    @property
    def sample(self) -> pa.Table:
        """The rows for parity."""
        return self.table.slice(0, PARITY_ROWS)


class ExportedModel(NamedTuple):
    """An exported model on the held-out rows.

    Attributes:
        scores: Scores by the model.onnx in the bundle.
        report: The gate's checks of these scores.
        parity: Largest difference from the trained model's scores.
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


def quantize(model: bytes, target: Path) -> None:
    """Write an ONNX model with int8 weights.

    Weights use seven of the eight bits: with eight, products on a CPU without VNNI saturate, and the scores of the
    serving machine would differ from those of the machine that ran the gate.

    Args:
        model: The model in float32.
        target: The file to write.
    """
    # ONNX Runtime recommends a preprocessing step that changes nothing in these graphs.
    with suppress_logs("root"):
        quantize_dynamic(
            onnx.load_from_string(model),
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )


def export_and_check(policy: GatePolicy, fit_result: FitResult, folder: Path, rows: GateRows) -> ExportedModel:
    """Export a model in float32 and check its scores.

    Args:
        policy: Limits of the gate.
        fit_result: The model.
        folder: Where its files go.
        rows: Rows to score, and the scores to compare with.
    """
    return _check(policy, fit_result, folder, rows, export(fit_result, folder, rows.sample))


def export_best_precision(policy: GatePolicy, fit_result: FitResult, folder: Path, rows: GateRows) -> ExportedModel:
    """Export a model, with int8 weights where ``TrainConfig.quantize`` asks for them and the gate accepts them.

    A model that fails the gate in float32 is not tried in int8.

    Args:
        policy: Limits of the gate.
        fit_result: The model.
        folder: Where its files go.
        rows: Rows to score.
    """
    exact = export_and_check(policy, fit_result, folder, rows)
    if fit_result.config.quantize == "none":
        return exact
    if not exact.report.passed:
        return exact._replace(int8_refusal="it already fails in float32")
    original = (folder / MODEL_FILE).read_bytes()
    quantize(original, folder / MODEL_FILE)
    parity = max(exact.parity, export_portable(fit_result, folder, rows.table))
    compared = rows._replace(original_scores=exact.scores, compression=INT8)
    quantized = _check(policy, fit_result, folder, compared, parity)
    if quantized.report.passed:
        return quantized._replace(precision="int8")
    (folder / MODEL_FILE).write_bytes(original)
    export_portable(fit_result, folder, rows.table)
    return exact._replace(int8_refusal="; ".join(check.reason for check in quantized.report.failures))


def _check(policy: GatePolicy, fit_result: FitResult, folder: Path, rows: GateRows, parity: float) -> ExportedModel:
    scores = onnx_scorer.score(onnx_scorer.open_session(folder / MODEL_FILE), fit_result.encoder.encode(rows.table))
    measured = fit_result.task, scores, rows.labels, parity, fit_result.train_metrics, fit_result.metrics
    candidate = ScoredCandidate(*measured, rows.champion_scores, rows.original_scores, rows.compression)
    return ExportedModel(scores, check_candidate(policy, candidate), parity)
