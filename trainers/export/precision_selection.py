"""Which file of a fitted model is gated and served: the one in float32, or, asked for and good enough, the one in int8."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from cluster.values import GateReport
from features.manifest import MODEL_FILE, Precision
from trainers.evaluation.quality_gate import GatePolicy, judge
from trainers.export.onnx_export import export_portable
from trainers.export.quantize import quantize
from trainers.loop.trainer import FitResult
from trainers.scoring import onnx_scorer


class Served(NamedTuple):
    """The scores of the held-out rows by the model.onnx that will be served, the gate's verdict on it, its precision.

    ``refused`` says why weights of int8 were asked for and are not served.
    """

    scores: np.ndarray
    report: GateReport
    precision: Precision
    refused: str = ""

    def __str__(self) -> str:
        return f"{self.precision} (int8 refused: {self.refused})" if self.refused else self.precision


def choose(
    policy: GatePolicy,
    fitted: FitResult,
    folder: Path,
    test: pa.Table,
    labels: np.ndarray,
    *,
    parity: float,
    champion_scores: np.ndarray | None = None,
) -> Served:
    """Judge the model.onnx of ``folder`` on ``test``, and replace it by its int8 form where that is asked for and passes.

    What fails in float32 is not tried in int8. ``parity`` is what export has found for the model in float32.
    """

    def judged(scores: np.ndarray, difference: float, exact: np.ndarray | None = None) -> GateReport:
        return judge(
            policy,
            fitted.task,
            scores,
            labels,
            parity=difference,
            train_metrics=fitted.train_metrics,
            validation_metrics=fitted.metrics,
            champion_scores=champion_scores,
            exact_scores=exact,
        )

    arrays = fitted.encoder.encode(test)
    exact = onnx_scorer.score(onnx_scorer.session(folder / MODEL_FILE), arrays)
    served = Served(exact, judged(exact, parity), "float32")
    if fitted.config.quantize == "none":
        return served
    if not served.report.passed:
        return served._replace(refused="it fails in float32 already")
    whole = (folder / MODEL_FILE).read_bytes()
    quantize(whole, folder / MODEL_FILE)
    scores = onnx_scorer.score(onnx_scorer.session(folder / MODEL_FILE), arrays)
    report = judged(scores, max(parity, export_portable(fitted, folder, test)), exact)
    if report.passed:
        return Served(scores, report, "int8")
    (folder / MODEL_FILE).write_bytes(whole)
    export_portable(fitted, folder, test)
    return served._replace(refused="; ".join(check.reason for check in report.failures))
