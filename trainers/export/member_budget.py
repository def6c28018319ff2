"""An ensemble within a serving budget: members are dropped until it is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from features.manifest import MODEL_FILE
from trainers.evaluation import serving_budget
from trainers.evaluation.serving_budget import Budget
from trainers.export.onnx_export import save_model
from trainers.export.precision_selection import PARITY_ROWS
from trainers.loop.trainer import FitResult
from trainers.scoring import onnx_scorer
from trainers.scoring.latency_benchmark import measure_latencies


def meet_budget(fit_result: FitResult, budget: Budget, table: pa.Table, print_line: Callable[[str], None]) -> FitResult:
    """The largest ensemble of a race whose graph meets a budget, else its single best model.

    Whether that one meets it, the gate decides.

    Args:
        fit_result: The trained model; one that no race chose is returned as it is.
        budget: Limits of latency and size.
        table: Rows to measure the latency on.
        print_line: Receives what exceeds the budget.
    """
    selection = fit_result.selection
    if selection is None or budget == Budget():
        return fit_result
    while len(selection.ensembles) > 1 and (excess := _excess(fit_result, budget, table)):
        print_line(f"{selection.describe()} exceeds the serving budget: {excess}")
        selection = selection.without_largest()
        fit_result = fit_result.with_selection(selection)
    return fit_result


def _excess(fit_result: FitResult, budget: Budget, table: pa.Table) -> str:
    """What exceeds the budget; empty if nothing does."""
    model = fit_result.build_model()
    sample = fit_result.encoder.encode(table.slice(0, PARITY_ROWS))
    with tempfile.TemporaryDirectory(prefix="rayloop-budget-") as folder:
        path = Path(folder) / MODEL_FILE
        save_model(model, fit_result.inputs, path)
        latency = measure_latencies(onnx_scorer.open_session(path), model.score, sample)
        checks = serving_budget.check(budget, latency, path.stat().st_size)
        return "; ".join(check.reason for check in checks if not check.passed)
