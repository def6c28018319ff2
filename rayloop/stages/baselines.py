"""Baselines: gradient-boosted trees on the same rows, with and without the point-in-time features."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import ray
from pydantic import model_validator

from cluster.values import Stored
from features.split import TEST, VALIDATION
from rayloop.context import ProjectContext
from rayloop.frame_view import FrameView
from trainers.evaluation.lightgbm_baseline import evaluate_baseline

WITH, WITHOUT = "LightGBM, same features", "LightGBM, request-time features only"
_FILE = "baselines.json"

BaselineResults = dict[str, dict[str, Any]]
"""By baseline: its ``metrics`` on the test rows, and the same by month as ``months``."""


class _StoredBaselines(Stored, stored_as="baselines"):
    baselines: BaselineResults

    @model_validator(mode="before")
    @classmethod
    def _convert(cls, data: dict[str, Any]) -> dict[str, Any]:
        # The first format is the results by themselves.
        return data if {"schema_version", "baselines"} & data.keys() else {"baselines": data}


def start(context: ProjectContext, frame: FrameView) -> Mapping[str, ray.ObjectRef[Any]]:
    """Start training the baselines as Ray tasks, in parallel with other stages; ``collect`` waits for them."""
    project = context.project
    if not project.baseline:
        return {}
    parts = (frame.training_rows(), frame.rows_of(VALIDATION), frame.rows_of(TEST))
    train, validation, test = map(ray.put, parts)
    request = {c.name for view in project.features.views for c in view.columns}
    request_columns = [c.name for c in project.features.columns if c.name not in request]
    columns_by_name = {WITH: None} | (
        {WITHOUT: request_columns} if len(request_columns) < len(project.features.columns) else {}
    )
    task = ray.remote(num_cpus=1)(evaluate_baseline)
    return {
        name: task.remote(project.task, frame.encoder, train, validation, test, columns)
        for name, columns in columns_by_name.items()
    }


def collect(context: ProjectContext, running: Mapping[str, ray.ObjectRef[Any]]) -> BaselineResults:
    """Wait for the baselines and store their metrics for later reports."""
    results: BaselineResults = {name: ray.get(reference) for name, reference in running.items()}
    context.write(_FILE, json.dumps(_StoredBaselines(baselines=results).model_dump(), indent=1))
    return results


def load(context: ProjectContext) -> BaselineResults:
    """Return the metrics of the last run; empty when there was none.

    Raises:
        DataError: A newer version wrote them.
    """
    text = context.read(_FILE)
    return _StoredBaselines.from_stored(json.loads(text)).baselines if text else {}
