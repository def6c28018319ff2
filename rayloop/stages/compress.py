"""Compression: the project's steps to a smaller model; a step whose result fails the gate is skipped."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cluster.values import Check, GateReport
from features.manifest import MODEL_FILE
from rayloop.stages.candidate import CandidateBuild
from rayloop.stages.evaluate_candidate import gate_rows
from trainers.config import Compression, ModelSpec, TrainConfig
from trainers.export.compression import compression_job
from trainers.export.precision_selection import ExportedModel, GateRows, export_and_check
from trainers.loop.train_events import Weights
from trainers.loop.train_spec import Teacher, TrainSpec
from trainers.loop.trainer import FitResult

Train = Callable[[ModelSpec, TrainConfig, int, Weights | None, Teacher | None], FitResult]
"""Trains with the number of the step, from 1, and optionally initial weights or a teacher."""


class CompressionResult(NamedTuple):
    """The model after the steps that were accepted."""

    fit_result: FitResult
    checks: tuple[Check, ...] = ()
    """Checks of the accepted steps against the model before compression."""
    steps: tuple[str, ...] = ()
    """What became of each step."""

    def __str__(self) -> str:
        return "; ".join(self.steps)


def compress(build: CandidateBuild, fit_result: FitResult, train: Train) -> CompressionResult:
    """Run the project's compression steps in order.

    Each result is compared with ``fit_result``, not with the step before it: small losses would add up unnoticed. A
    model that fails the gate as it is stays as it is: compression cannot repair it.

    Args:
        build: The candidate.
        fit_result: Its trained model.
        train: Trains a smaller model.
    """
    result = CompressionResult(fit_result)
    steps = build.context.project.compress
    if not steps:
        return result
    rows, _ = gate_rows(build)
    original, original_mib = _check(build, fit_result, rows)
    for number, step in enumerate(steps if original.report.passed else (), start=1):
        before = result.fit_result
        # One step's epochs and learning rate do not carry over to the next.
        spec = TrainSpec(before.spec, fit_result.config, before.task, before.inputs)
        job = compression_job(step, spec, before.build_module())
        build.context.progress(f"compression step {number}: {step.description}")
        smaller = train(job.model, job.config, number, job.start, job.teacher)
        compressed_rows = rows._replace(original_scores=original.scores, compression=step.description)
        checked, mib = _check(build, smaller, compressed_rows)
        result = _accept_or_skip(result, step, smaller, checked.report)
        build.context.progress(f"{result.steps[-1]} ({original_mib:.2f} MiB before, {mib:.2f} MiB after)")
    return result


def _accept_or_skip(
    result: CompressionResult, step: Compression, smaller: FitResult, report: GateReport
) -> CompressionResult:
    if not report.passed:
        why = "; ".join(check.reason for check in report.failures)
        return result._replace(steps=(*result.steps, f"not {step.description}: {why}"))
    checks = tuple(check for check in report.checks if check.name.startswith(step.description))
    return CompressionResult(smaller, (*result.checks, *checks), (*result.steps, step.description))


def _check(build: CandidateBuild, fit_result: FitResult, rows: GateRows) -> tuple[ExportedModel, float]:
    """Score a model as it would be served on the held-out rows, and check it; return the export and its MiB."""
    with tempfile.TemporaryDirectory(prefix="rayloop-compress-") as temporary:
        path = Path(temporary) / MODEL_FILE
        exported = export_and_check(build.context.project.gate, fit_result, path.parent, rows)
        return exported, path.stat().st_size / (1 << 20)
