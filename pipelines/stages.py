"""The stages of the loop. Each can be run again: what is done already is found, not done twice."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import polars as pl

from cluster.contracts import CHAMPION, ModelVersion, Snapshot
from cluster.errors import ProjectError, SnapshotNotFound
from features.bundle import Manifest
from features.frame import build_frame
from features.landing import Landed, land
from features.materialize import materialize
from features.split import Split
from pipelines.frames import Frame
from pipelines.serving import deploy, serves, start_rollout
from pipelines.versions import Candidate, Recipe, make_version, tune
from pipelines.workspace import Workspace
from trainers.config import ModelSpec, TrainConfig

Snapshots = Mapping[str, Snapshot]


def land_sources(workspace: Workspace) -> dict[str, Landed]:
    """Land every source of the project; they wait on disk and on one another's tasks, so they go side by side."""
    project = workspace.project
    with workspace.progress.stage("data"), ThreadPoolExecutor(len(project.sources)) as pool:
        found = list(pool.map(lambda source: land(source, workspace.tables, project.name), project.sources))
        landed = {source.name: one for source, one in zip(project.sources, found, strict=True)}
        for name, one in landed.items():
            put_aside = sum(one.quarantined.values())
            workspace.progress(f"{name}: {one.added:,} rows landed, {one.present:,} known, {put_aside:,} in quarantine")
    return landed


def training_frame(
    workspace: Workspace, landed: Snapshots, split: Split | None = None, until: datetime | None = None
) -> Frame:
    """Join examples and features as of their own time; ``until`` leaves out what was not known then."""
    project = workspace.project
    with workspace.progress.stage("features"):
        snapshot = build_frame(
            project.features,
            project.examples,
            project.task,
            split or project.split,
            landed,
            workspace.tables,
            workspace.settings,
            workspace.frame_table,
            until,
        )
        workspace.progress(f"training frame: {snapshot.rows:,} rows, snapshot {snapshot.id}")
        return Frame(workspace, snapshot)


def materialize_online(workspace: Workspace, landed: Snapshots, until: datetime) -> None:
    """Bring the online store up to what was known ``until``."""
    views = workspace.project.features.views
    with workspace.progress.stage("online"):
        for source in {view.source for view in views}:
            mine = [view for view in views if view.source == source]
            columns = sorted({column for view in mine for column in view.source_columns})
            events = pl.DataFrame(workspace.tables.read(landed[source].table, landed[source].id, columns))
            for view in mine:
                materialize(workspace.store, view, events, round(until.timestamp() * 1_000_000))
        if views:
            workspace.progress(f"{len(views)} views materialised until {until:%Y-%m-%d %H:%M}")


def latest_snapshots(workspace: Workspace) -> dict[str, Snapshot]:
    """The newest state of each landed source. Raises SnapshotNotFound when one was never landed."""
    name = workspace.project.name
    found = {source.name: workspace.tables.latest(f"{name}.{source.name}") for source in workspace.project.sources}
    missing = [source for source, snapshot in found.items() if snapshot is None]
    if missing:
        raise SnapshotNotFound(f"source {', '.join(missing)} of {name} was never landed", "run the project first")
    return {source: snapshot for source, snapshot in found.items() if snapshot is not None}


def snapshots(landed: Mapping[str, Landed]) -> dict[str, Snapshot]:
    return {name: one.snapshot for name, one in landed.items()}


def first_version(workspace: Workspace, frame: Frame) -> tuple[Candidate, Recipe]:
    """Search, fit the winner, gate and register it."""
    with workspace.progress.stage("tune"):
        recipe, _ = tune(workspace, frame)
    with workspace.progress.stage("train"):
        return make_version(workspace, frame, recipe, "winner"), recipe


def release(workspace: Workspace, version: ModelVersion) -> str:
    """Serve the first version outright; roll out any later one against the champion. Says which was done."""
    champion = workspace.registry.aliased(workspace.project.name, CHAMPION)
    with workspace.progress.stage("serve"):
        if champion is None:
            deploy(workspace, version)
            done = f"{version} serves as the first champion"
        elif champion.version == version.version:
            deploy(workspace, version)
            done = f"{version} is champion already"
        else:
            if not serves(workspace, champion):
                deploy(workspace, champion)
            start_rollout(workspace, version)
            done = f"{version} is on its way as challenger of v{champion.version}"
        workspace.progress(done)
    return done


def retrain(workspace: Workspace, until: datetime) -> Candidate:
    """Train the champion's recipe on all that was known ``until`` and register the result when it passes the gate."""
    project = workspace.project
    champion = workspace.registry.aliased(project.name, CHAMPION)
    if champion is None:
        raise ProjectError(f"{project.name} has no champion to retrain", "run the project first")
    landed = snapshots(land_sources(workspace))
    materialize_online(workspace, landed, until)
    frame = training_frame(workspace, landed, project.split.moved(until, project.retrain.holdout), until)
    with workspace.progress.stage("train"):
        return make_version(workspace, frame, recipe_of(workspace, champion), f"retrained {until:%Y-%m-%d}")


def recipe_of(workspace: Workspace, version: ModelVersion) -> Recipe:
    """The model and settings a version was trained with."""
    recipe = Manifest.load(workspace.registry.fetch(version)).recipe
    spec = ModelSpec(build=workspace.project.model.build, parameters=recipe["model"])
    return Recipe(spec, TrainConfig.model_validate(recipe["train"]))
