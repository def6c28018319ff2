"""Continue the training of a version: its weights or trees, its encoder and its scale, on other rows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

from cluster.errors import ProjectError, VersionNotFound
from cluster.registry import Run
from cluster.values import ModelVersion
from features.encoder import Encoder
from features.manifest import Manifest
from rayloop.context import ProjectContext
from trainers.config import ModelSpec, TrainConfig
from trainers.loop.starting_point import StartingPoint
from trainers.loop.trainer import FitResult

WARM_START_FOLDER, WARM_START_FILE = "warm_start", "model.safetensors"
STARTED_FROM = "rayloop.started_from"
"""Tag of a version: the version whose weights or trees its training continued."""


class WarmStart(NamedTuple):
    """A version that a training continues."""

    version: ModelVersion
    encoder: Encoder
    point: StartingPoint


def store_starting_point(run: Run, result: FitResult) -> None:
    """Store a trained model, before compression, among the artifacts of its run; an estimator is never continued."""
    if result.spec.is_estimator:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / WARM_START_FILE
        path.write_bytes(StartingPoint.of(result).to_bytes())
        run.log_file(path, WARM_START_FOLDER)


def load_warm_start(context: ProjectContext, number: str, spec: ModelSpec, config: TrainConfig) -> WarmStart:
    """Return what is needed to continue a version.

    Args:
        context: The project.
        number: The version.
        spec: The model that would continue it.
        config: Its training settings.

    Raises:
        VersionNotFound: There is no such version, or its run has no stored weights.
        ProjectError: Its features, its task, its model or its use of synthetic rows differ from those of the project,
            or no model is trained, or it is fitted in one go, or a race chooses it.
    """
    if spec.is_python:
        raise ProjectError("project.python_is_fixed", what="--from-version")
    if spec.is_auto:
        raise ProjectError("project.auto_chooses", what="--from-version")
    if spec.is_estimator:
        raise ProjectError("project.warm_start_estimator", model=spec.name)
    registry, features = context.registry, context.project.features
    version = registry.version(context.project.name, number)
    manifest = Manifest.load(registry.fetch(version))
    if manifest.feature_hash != features.content_hash:
        theirs, ours = ([f"{c.name} ({c.kind})" for c in f.columns] for f in (manifest.features, features))
        differing = [name for name in (*theirs, *ours) if (name in theirs) != (name in ours)]
        raise ProjectError(
            "project.warm_start_features", version=number, columns=differing or ["their order or definitions"]
        )
    path = f"{WARM_START_FOLDER}/{WARM_START_FILE}"
    if not registry.has_run_file(version, path):
        raise VersionNotFound("registry.version_without_weights", model=version.model, version=number)
    point = StartingPoint.from_file(str(registry.fetch_run_file(version, path)))
    point.require_same_model(number, spec, context.project.task)
    # What synthetic rows add to logits is in the weights of a version, and further training takes it back slowly.
    if bool(point.inputs.logit_shift) != (config.minority is not None):
        raise ProjectError("project.warm_start_minority", version=number)
    return WarmStart(version, manifest.encoder, point)
