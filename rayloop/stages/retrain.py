"""Retrain the champion on newer data."""

from __future__ import annotations

from datetime import datetime

from cluster.errors import ProjectError, VersionNotFound
from cluster.values import ModelVersion
from features.manifest import Manifest
from rayloop.context import ProjectContext
from rayloop.retraining.warm_start import load_warm_start
from rayloop.stages.candidate import Candidate, Recipe
from rayloop.stages.feature_data import ingest_sources, materialize_online, retrain_frame, snapshots_of
from rayloop.stages.train_version import build_version
from trainers.config import IMPORTED, PYTHON, ModelSpec, TrainConfig


def retrain_champion(context: ProjectContext, until: datetime, from_version: str | None = None) -> Candidate:
    """Train the champion's recipe on what was known at ``until``; register the result if it passes the gate.

    Of an imported champion, or a Python model, the project's own model is trained.

    Args:
        context: The project.
        until: Use only what was known at this time.
        from_version: Continue this version, with its own recipe, in place of the champion's from the beginning.

    Raises:
        VersionNotFound: There is no champion.
        ProjectError: The project's model is an imported one or a Python model, which is not trained here.
    """
    project, champion = context.project, context.champion
    if champion is None:
        raise VersionNotFound("registry.no_champion", model=project.name)
    if project.model.is_imported:
        raise ProjectError("project.retrain_imported", model=project.name)
    if project.model.is_python:
        raise ProjectError("project.retrain_python", model=project.name)
    recipe = _load_recipe(context, champion)
    if from_version:
        # Before anything is ingested: a version that cannot be continued is refused at once.
        recipe = _load_recipe(context, context.registry.version(project.name, from_version))
        recipe = recipe._replace(start=load_warm_start(context, from_version, recipe.spec, recipe.config))
    snapshots = snapshots_of(ingest_sources(context))
    materialize_online(context, snapshots, until)
    frame = retrain_frame(context, snapshots, until)
    with context.progress.stage("train"):
        return build_version(context, frame, recipe, f"retrained {until:%Y-%m-%d}")


def _load_recipe(context: ProjectContext, version: ModelVersion) -> Recipe:
    """Return the model and settings that a version was trained with; of a race, the race."""
    if context.project.model.is_auto:
        return Recipe(context.project.model, context.project.train)
    recipe = Manifest.load(context.registry.fetch(version)).recipe
    if IMPORTED in recipe or PYTHON in recipe:
        return Recipe(context.project.model, context.project.train)
    spec = ModelSpec(build=context.project.model.build, parameters=recipe["model"])
    return Recipe(spec, TrainConfig.model_validate(recipe["train"], extra="ignore"))
