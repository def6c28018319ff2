"""Features that are the label, or determine it. Pure.

A model with such a feature looks perfect in training, and a request cannot have it: today's gate refuses it after
minutes of training (trainers/evaluation/leakage.py); this module finds it on a sample, before anything runs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from cluster.errors import ProjectError
from cluster.values import Task
from features.definitions import Column
from features.encoder import Encoder
from features.outcomes import LabelWithin
from features.types import LABEL
from rayloop.project import Project
from rayloop.project_check.diagnostics import Diagnostic
from trainers import metrics
from trainers.evaluation.leakage import single_feature_skills
from trainers.input_spec import InputSpec

DETERMINED = 0.998
"""Skill of a single feature that determines the label: 2 AUC - 1 at an AUC of 0.999."""
MIN_ROWS = 100
"""Rows below which a feature may seem to determine the label by chance."""


def label_columns(project: Project) -> list[str]:
    """Return the features that are the one column from which the label is computed."""
    label = project.examples.label
    roots = [] if isinstance(label, LabelWithin) else sorted(set(label.meta.root_names()))
    return [c.name for c in project.features.columns if roots == [c.name] and c in project.features.request]


def check_label_columns(project: Project) -> Iterator[Diagnostic]:
    """Find the label's own column among the features; no rows are needed."""
    for name in label_columns(project):
        error = ProjectError("project.label_is_feature", feature=name, source=project.examples.source)
        yield Diagnostic.from_error(error, f"feature {name!r}")


def check_leaks(project: Project, examples: pl.DataFrame) -> Iterator[Diagnostic]:
    """Find features that determine the label on the sampled examples.

    Args:
        project: The project.
        examples: Examples with their label, and with some or all of the features.
    """
    known, limit = label_columns(project), project.gate.max_alone
    columns = tuple(c for c in project.features.columns if c.name in examples.columns and c.name not in known)
    for name, skill in single_skills(project.task, columns, examples):
        rows = f"{examples.height:,}"
        if skill > DETERMINED:
            error = ProjectError("project.feature_determines_label", feature=name, rows=rows)
            yield Diagnostic.from_error(error, f"feature {name!r}")
        elif limit is not None and skill > limit:
            error = ProjectError(
                "project.feature_too_skilled", feature=name, skill=f"{skill:.3f}", rows=rows, limit=limit
            )
            yield Diagnostic.from_error(error, f"feature {name!r}", "warning")


def single_skills(task: Task, columns: tuple[Column, ...], examples: pl.DataFrame) -> Iterator[tuple[str, float]]:
    """Yield names of features and their skills alone, from 0 to 1: the gate's or that of their order, if it is larger.

    Args:
        task: The task.
        columns: The features.
        examples: Rows with features and label.
    """
    scalars = tuple(column for column in columns if column.kind in ("number", "category"))
    if examples.height < MIN_ROWS or not scalars or examples.get_column(LABEL).n_unique() < 2:
        return
    table, labels = examples.select(c.name for c in scalars).to_arrow(), examples.get_column(LABEL).to_numpy()
    encoder = Encoder.fit(scalars, table)
    arrays = encoder.encode(table)
    inputs = InputSpec.fit(encoder, task, arrays, labels)
    for feature in single_feature_skills(task, inputs, arrays, labels):
        ordered = 0.0
        if feature.feature in encoder.numbers:
            ordered = _order_skill(task, examples.get_column(feature.feature).to_numpy(), labels)
        yield feature.feature, max(feature.skill, ordered)


def _order_skill(task: Task, values: np.ndarray, labels: np.ndarray) -> float:
    """Skill of the order of present numbers: |2 AUC - 1| of a binary label, |rank correlation| of a number."""
    present = np.isfinite(values)
    values, labels = values[present], labels[present]
    if len(values) < MIN_ROWS or task.kind not in ("binary", "regression"):
        return 0.0
    if task.kind == "binary":
        skill = 2.0 * metrics.auc(values, labels)(None) - 1.0
    else:
        skill = pl.select(pl.corr(pl.Series(values), pl.Series(labels), method="spearman")).item()
    return 0.0 if skill is None or np.isnan(skill) else abs(float(skill))
