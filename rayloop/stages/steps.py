"""The stages of the loop. Each can be run again: what is done already is found, not done twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import polars as pl
from ray.exceptions import RayTaskError

from cluster.errors import ProjectError, RolloutError, SnapshotNotFound
from cluster.names import CHAMPION
from cluster.values import ModelVersion, Snapshot
from features.definitions import FeatureView
from features.manifest import Manifest
from features.offline.training_frame import build_frame
from features.online.backfill import backfill
from features.online.bulk_load import load_snapshot
from features.sources.ingestion import IngestionResult, ingest
from features.sources.source import Source
from features.split import Split
from rayloop.context import ProjectContext
from rayloop.frame_view import FrameView
from rayloop.lineage import collect_views, load_lineage
from rayloop.stages.deploy import deploy, is_serving, start_rollout
from rayloop.stages.train_version import Candidate, Recipe, build_version, choose_recipe
from trainers.config import ModelSpec, TrainConfig
from trainers.worker_errors import deliberate

Snapshots = Mapping[str, Snapshot]


def land_sources(workspace: ProjectContext) -> dict[str, IngestionResult]:
    """Land every source of the project; they wait on disk and on one another's tasks, so they go side by side."""
    return _land(workspace, workspace.project.sources)


def _land(workspace: ProjectContext, sources: Sequence[Source]) -> dict[str, IngestionResult]:
    tables, name, now = workspace.tables, workspace.project.name, datetime.now(UTC)
    with workspace.progress.stage("data"), ThreadPoolExecutor(len(sources)) as pool:
        found = pool.map(lambda source: ingest(source, tables, name, workspace.settings, now), sources)
        landed = {source.name: one for source, one in zip(sources, found, strict=True)}
        for each, one in landed.items():
            workspace.progress(
                f"{each}: {one.new_rows:,} rows landed, {one.known_rows:,} known, {one.quarantined_rows:,} in quarantine"
            )
            if one.staleness:
                workspace.progress(f"WARNING: {one.staleness}")
    return landed


def training_frame(
    workspace: ProjectContext, landed: Snapshots, split: Split | None = None, until: datetime | None = None
) -> FrameView:
    """Join examples and features as of their own time; ``until`` leaves out what was not known then."""
    project = workspace.project
    with workspace.progress.stage("features"):
        try:
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
        except RayTaskError as error:
            raise deliberate(str(error)) or error from error
        workspace.progress(f"training frame: {snapshot.rows:,} rows, snapshot {snapshot.id}")
        return FrameView(workspace, snapshot)


def materialize_online(
    workspace: ProjectContext, landed: Snapshots, until: datetime, versions: Sequence[ModelVersion] = ()
) -> None:
    """Bring the online store up to what was known ``until``, for what is declared and for what answers.

    The champion, and ``versions`` on the way to be served, may look up views as they were defined before.
    """
    views = _looked_up(workspace, landed, versions)
    with workspace.progress.stage("online"):
        for view in views:
            load_snapshot(workspace.store, view, workspace.tables, landed[view.source], _us(until))
        if views:
            workspace.progress(f"{len(views)} views materialised until {until:%Y-%m-%d %H:%M}")


def _looked_up(workspace: ProjectContext, landed: Snapshots, versions: Sequence[ModelVersion]) -> list[FeatureView]:
    """The views that are declared, and those of the champion and of ``versions`` that their tables still can fill."""
    champion = workspace.registry.version_by_alias(workspace.project.name, CHAMPION)
    served = [*([champion] if champion else []), *versions]
    declared = workspace.project.features.views
    known = {view.content_hash for view in declared}
    views = collect_views((load_lineage(workspace.registry, version) for version in served), declared)
    return [view for view in views if view.content_hash in known or _can_be_filled(workspace, view, landed)]


def _can_be_filled(workspace: ProjectContext, view: FeatureView, landed: Snapshots) -> bool:
    snapshot = landed.get(view.source)
    return snapshot is not None and set(view.source_columns) <= set(workspace.tables.columns(snapshot.table))


def backfill_view(workspace: ProjectContext, name: str, until: datetime, since: datetime | None = None) -> None:
    """Land the source of one view and make its online state anew, or that of entities with events ``since`` then."""
    project = workspace.project
    view = project.view(name)
    source = next(source for source in project.sources if source.name == view.source)
    landed = _land(workspace, [source])[source.name]
    with workspace.progress.stage("online"):
        parts = workspace.tables.parts(landed.snapshot)[1]
        batches = (pl.DataFrame(batch) for part in parts for batch in part.read(view.source_columns))
        rows, start = landed.snapshot.rows, _us(since) if since else None
        done = backfill(workspace.store, view, batches, rows, _us(until), start)
        workspace.progress(
            f"{name}: {done.entities:,} states made anew of {done.events:,} events, {done.removed:,} removed"
        )


def latest_snapshots(workspace: ProjectContext) -> dict[str, Snapshot]:
    """The newest state of each landed source. Raises SnapshotNotFound when one was never landed."""
    name = workspace.project.name
    found = {source.name: workspace.tables.latest(f"{name}.{source.name}") for source in workspace.project.sources}
    missing = [source for source, snapshot in found.items() if snapshot is None]
    if missing:
        raise SnapshotNotFound(f"source {', '.join(missing)} of {name} was never landed", "run the project first")
    return {source: snapshot for source, snapshot in found.items() if snapshot is not None}


def snapshots_of(landed: Mapping[str, IngestionResult]) -> dict[str, Snapshot]:
    return {name: one.snapshot for name, one in landed.items()}


def build_first_version(workspace: ProjectContext, frame: FrameView) -> tuple[Candidate, Recipe]:
    """Search, fit the winner, gate and register it."""
    with workspace.progress.stage("tune"):
        recipe, _ = choose_recipe(workspace, frame)
    with workspace.progress.stage("train"):
        return build_version(workspace, frame, recipe, "winner"), recipe


def release(workspace: ProjectContext, *versions: ModelVersion) -> str:
    """Serve the first version outright; roll out any later one, or several, against the champion. Says which was done."""
    champion, version = workspace.registry.version_by_alias(workspace.project.name, CHAMPION), versions[0]
    if champion is None and len(versions) > 1:
        raise RolloutError(f"{workspace.project.name} has no champion to try several versions against", "deploy one")
    with workspace.progress.stage("serve"):
        if champion is None:
            deploy(workspace, version)
            done = f"{version} serves as the first champion"
        elif (champion.version,) == tuple(one.version for one in versions):
            deploy(workspace, version)
            done = f"{version} is champion already"
        else:
            if not is_serving(workspace, champion):
                deploy(workspace, champion)
            start_rollout(workspace, versions)
            done = f"{' and '.join(map(str, versions))} on the way to challenge v{champion.version}"
        workspace.progress(done)
    return done


def retrain(workspace: ProjectContext, until: datetime) -> Candidate:
    """Train the champion's recipe on all that was known ``until`` and register the result when it passes the gate."""
    project = workspace.project
    champion = workspace.registry.version_by_alias(project.name, CHAMPION)
    if champion is None:
        raise ProjectError(f"{project.name} has no champion to retrain", "run the project first")
    landed = snapshots_of(land_sources(workspace))
    materialize_online(workspace, landed, until)
    frame = training_frame(workspace, landed, project.split.for_retrain(until, project.retrain.holdout), until)
    with workspace.progress.stage("train"):
        return build_version(workspace, frame, load_recipe(workspace, champion), f"retrained {until:%Y-%m-%d}")


def load_recipe(workspace: ProjectContext, version: ModelVersion) -> Recipe:
    """The model and settings a version was trained with."""
    recipe = Manifest.load(workspace.registry.fetch(version)).recipe
    spec = ModelSpec(build=workspace.project.model.build, parameters=recipe["model"])
    return Recipe(spec, TrainConfig.model_validate(recipe["train"], extra="ignore"))


def _us(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)
