"""An ensemble within the project's serving budget: members are dropped until it is."""

from __future__ import annotations

import tempfile
from pathlib import Path

from features.manifest import MODEL_FILE
from features.split import VALIDATION
from rayloop.stages.candidate import CandidateBuild
from trainers.evaluation import serving_budget
from trainers.evaluation.serving_budget import Budget
from trainers.export.onnx_export import save_model
from trainers.export.precision_selection import PARITY_ROWS
from trainers.loop.trainer import FitResult
from trainers.scoring import onnx_scorer
from trainers.scoring.latency_benchmark import measure_latencies


def meet_budget(build: CandidateBuild, fit_result: FitResult) -> FitResult:
    """Return the largest ensemble of a race whose graph meets the gate's budget, else its single best model.

    Whether that one meets it, the gate decides.

    Args:
        build: The candidate.
        fit_result: Its trained model; one that no race chose is returned as it is.
    """
    budget, selection = build.context.project.gate.budget, fit_result.selection
    if selection is None or budget == Budget():
        return fit_result
    while len(selection.ensembles) > 1 and (over := _over_budget(build, fit_result, budget)):
        build.context.progress(f"{selection.describe()} exceeds the serving budget: {over}")
        selection = selection.without_largest()
        fit_result = fit_result.with_selection(selection)
    return fit_result


def _over_budget(build: CandidateBuild, fit_result: FitResult, budget: Budget) -> str:
    """What exceeds the budget; empty if nothing does."""
    model = fit_result.build_model()
    sample = fit_result.encoder.encode(build.frame.rows_of(VALIDATION).slice(0, PARITY_ROWS))
    with tempfile.TemporaryDirectory(prefix="rayloop-budget-") as folder:
        path = Path(folder) / MODEL_FILE
        save_model(model, fit_result.inputs, path)
        latency = measure_latencies(onnx_scorer.open_session(path), model.score, sample)
        checks = serving_budget.check(budget, latency, path.stat().st_size)
        return "; ".join(check.reason for check in checks if not check.passed)
