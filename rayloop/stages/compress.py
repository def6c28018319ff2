"""The project's steps to a smaller model, each taken if the gate holds with what comes of it, and left out otherwise."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cluster.names import CHAMPION
from cluster.values import Check, GateReport
from features.manifest import MODEL_FILE
from features.split import TEST
from rayloop.context import ProjectContext
from rayloop.frame_view import FrameView
from rayloop.stages.evaluate_candidate import champion_scores
from trainers.config import ModelSpec, TrainConfig
from trainers.export.compression import Compression, compression_job
from trainers.export.precision_selection import GateRows, export_and_check
from trainers.loop.train_events import State
from trainers.loop.train_spec import Job, Teacher
from trainers.loop.trainer import FitResult

Train = Callable[[ModelSpec, TrainConfig, int, State | None, Teacher | None], FitResult]
"""With the number of the step, from 1, and weights to begin with, or a teacher."""


class CompressionResult(NamedTuple):
    """The model after the steps that were accepted, their checks against the model before all of them, and what became of each."""

    fitted: FitResult
    checks: tuple[Check, ...] = ()
    told: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "; ".join(self.told)


class _Scored(NamedTuple):
    scores: np.ndarray
    report: GateReport
    mib: float


def compress(
    context: ProjectContext, frame: FrameView, fitted: FitResult, train: Train, compare: bool
) -> CompressionResult:
    """Take the steps of the project one after the other.

    Each result is compared with ``fitted``, so that small losses do not add up unseen. A model that fails the gate as it is
    stays as it is: no step would mend it.
    """
    found = CompressionResult(fitted)
    steps = context.project.compress
    if not steps:
        return found
    examiner = _Examiner(context, frame, compare)
    whole = examiner(fitted)
    for number, step in enumerate(steps if whole.report.passed else (), start=1):
        before = found.fitted
        # Epochs and learning rate of a step are not those of the next.
        job = Job(before.spec, fitted.config, before.task, before.inputs)
        todo = compression_job(step, job, before.module())
        context.progress(f"now to be {step.description}")
        smaller = train(todo.spec, todo.config, number, todo.start, todo.teacher)
        seen = examiner(smaller, whole.scores, step)
        found = _decided(found, step, smaller, seen)
        context.progress(f"{found.told[-1]} ({whole.mib:.2f} MiB whole, {seen.mib:.2f} MiB so)")
    return found


def _decided(found: CompressionResult, step: Compression, smaller: FitResult, seen: _Scored) -> CompressionResult:
    if not seen.report.passed:
        why = "; ".join(check.reason for check in seen.report.failures)
        return found._replace(told=(*found.told, f"not {step.description}: {why}"))
    added = tuple(check for check in seen.report.checks if check.name.startswith(step.description))
    return CompressionResult(smaller, (*found.checks, *added), (*found.told, step.description))


class _Examiner:
    """Scores a model as it would be served on the held-out rows, and asks the gate."""

    def __init__(self, context: ProjectContext, frame: FrameView, compare: bool) -> None:
        self._policy, test = context.project.gate, frame.rows_of(TEST)
        champion = context.registry.version_by_alias(context.project.name, CHAMPION) if compare else None
        self._rows = GateRows(test, champion_scores(context, champion, test))

    def __call__(self, fitted: FitResult, whole: np.ndarray | None = None, step: Compression | None = None) -> _Scored:
        with tempfile.TemporaryDirectory(prefix="rayloop-compress-") as temporary:
            path = Path(temporary) / MODEL_FILE
            exported = export_and_check(
                self._policy,
                fitted,
                path.parent,
                self._rows,
                original_scores=whole,
                compression=step.description if step else "",
            )
            return _Scored(exported.scores, exported.report, path.stat().st_size / (1 << 20))
