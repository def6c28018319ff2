"""The data of a project: its sources, the training frame and the online store.

Each stage can be repeated: work that is done is not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial

import polars as pl
from ray.exceptions import RayTaskError

from cluster.errors import DataError, RayloopError, SnapshotNotFound
from cluster.times import epoch_microseconds
from cluster.values import ModelVersion, Snapshot
from features.definitions import FeatureView
from features.offline.training_frame import build_frame
from features.offline.weak_frame import build_weak_frame
from features.online.backfill import backfill
from features.online.bulk_load import load_snapshot
from features.online.corrections import record_corrections
from features.online.layout_upgrade import record_load
from features.sources.ingestion import IngestionResult, ingest
from features.sources.source import Source
from features.sources.stored_rows import stored_parts
from features.split import Split
from rayloop.context import ProjectContext
from rayloop.frame_view import FrameView
from rayloop.lineage import collect_views, load_lineage

Snapshots = Mapping[str, Snapshot]
_NO_WEAK_LABELS = ("data.weak_labels_no_votes", "data.weak_labels_unidentified")
"""Codes of errors that say that too few rows lack a label."""


def ingest_sources(context: ProjectContext, sources: Sequence[Source] | None = None) -> dict[str, IngestionResult]:
    """Ingest sources in parallel: they wait for disks and for each other's tasks.

    Args:
        context: The project.
        sources: Default: all sources of the project.
    """
    sources = context.project.sources if sources is None else sources
    tables, name, now = context.tables, context.project.name, datetime.now(UTC)
    with context.progress.stage("data"), ThreadPoolExecutor(len(sources)) as pool:
        results = pool.map(lambda source: ingest(source, tables, name, context.settings, now), sources)
        ingestion_results = {source.name: result for source, result in zip(sources, results, strict=True)}
        for source, result in ingestion_results.items():
            counts = (
                f"{result.new_rows:,} new rows, {result.known_rows:,} known, {result.quarantined_rows:,} quarantined"
            )
            corrected = f", {result.corrected_rows:,} corrected" if result.corrected_rows else ""
            context.progress(f"{source}: {counts}{corrected}")
            if result.staleness:
                context.progress(f"WARNING: {result.staleness}")
    return ingestion_results


def training_frame(
    context: ProjectContext, snapshots: Snapshots, split: Split | None = None, until: datetime | None = None
) -> FrameView:
    """Join examples with features as of their own times.

    Args:
        context: The project.
        snapshots: Snapshots of its sources.
        split: Which rows train, validate and test; default: the project's.
        until: Use only what was known at this time.
    """
    project = context.project
    with context.progress.stage("features"):
        what = project.features, project.examples, project.task, split or project.split, snapshots, context.tables
        try:
            snapshot = build_frame(*what, context.frame_table, until)
            build_weak = partial(build_weak_frame, *what, snapshot, until)
            weak = _weak_frame(context, build_weak, is_retraining=until is not None) if project.examples.weak else None
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, RayloopError) else error) from error
        frame = FrameView(context, snapshot, weak)
        purged = f"; purged {frame.purged}" if frame.purged else ""
        context.progress(f"training frame: {snapshot.rows:,} rows, snapshot {snapshot.id}{purged}")
        if frame.weak_labels:
            context.progress(f"weak labels: {frame.weak_labels}")
        if warning := (split or project.split).warning(*frame.period):
            context.progress(f"WARNING: {warning}")
        return frame


def _weak_frame(context: ProjectContext, build: Callable[[], Snapshot], *, is_retraining: bool) -> Snapshot | None:
    """Give rows weak labels. A retraining does without if it must: all of its rows may have true labels by then."""
    try:
        return build()
    except DataError as error:
        if not is_retraining or error.code not in _NO_WEAK_LABELS:
            raise
        context.progress(f"WARNING: no weak labels: {error}")
        return None


def retrain_frame(context: ProjectContext, snapshots: Snapshots, now: datetime) -> FrameView:
    """Join the examples whose labels are known at ``now``, split as a retrain at that time holds rows out."""
    project = context.project
    return training_frame(context, snapshots, project.split.for_retrain(now, project.retrain.holdout), now)


def materialize_online(
    context: ProjectContext, snapshots: Snapshots, until: datetime, versions: Sequence[ModelVersion] = ()
) -> None:
    """Bring the online store up to date, for the declared views and for those of served versions.

    Args:
        context: The project.
        snapshots: Snapshots of its sources.
        until: Store what was known at this time.
        versions: Versions about to be served. They and the champion may use earlier definitions of views.
    """
    views = _list_views(context, snapshots, versions)
    with context.progress.stage("online"):
        for view in views:
            load_snapshot(context.store, view, context.tables, snapshots[view.source], epoch_microseconds(until))
            record_load(context.store, view)
        if views:
            context.progress(f"{len(views)} views materialized until {until:%Y-%m-%d %H:%M}")


def _list_views(context: ProjectContext, snapshots: Snapshots, versions: Sequence[ModelVersion]) -> list[FeatureView]:
    """Return the declared views, and those of the champion and ``versions`` whose columns the tables still have."""
    served = [version for version in (context.champion, *versions) if version is not None]
    declared = context.project.features.views
    known = {view.content_hash for view in declared}
    views = collect_views((load_lineage(context.registry, version) for version in served), declared)
    return [view for view in views if view.content_hash in known or _can_fill(context, view, snapshots)]


def _can_fill(context: ProjectContext, view: FeatureView, snapshots: Snapshots) -> bool:
    snapshot = snapshots.get(view.source)
    return snapshot is not None and set(view.source_columns) <= set(context.tables.columns(snapshot.table))


def backfill_view(context: ProjectContext, name: str, until: datetime, since: datetime | None = None) -> None:
    """Ingest the source of a view and rebuild the view's online state.

    Args:
        context: The project.
        name: Name of the view.
        until: Use events that count at this time at the latest.
        since: Rebuild only entities with events since this time; None: all.
    """
    project = context.project
    view = project.view(name)
    source = next(source for source in project.sources if source.name == view.source)
    ingestion = ingest_sources(context, [source])[source.name]
    with context.progress.stage("online"):
        parts = stored_parts(context.tables, ingestion.snapshot)
        batches = (pl.DataFrame(batch) for part in parts for batch in part.read(view.source_columns))
        rows, start = ingestion.snapshot.rows, epoch_microseconds(since) if since else None
        done = backfill(context.store, view, batches, rows, epoch_microseconds(until), start)
        if since is None:
            record_load(context.store, view)
            record_corrections(context.store, view, ingestion.snapshot, epoch_microseconds(until))
        context.progress(
            f"{name}: rebuilt {done.entities:,} states from {done.events:,} events, removed {done.removed_entities:,}"
        )


def latest_snapshots(context: ProjectContext) -> dict[str, Snapshot]:
    """Return the newest snapshot of each source. Raises SnapshotNotFound when a source was never ingested."""
    name = context.project.name
    newest = {source.name: context.tables.latest(f"{name}.{source.name}") for source in context.project.sources}
    missing = [source for source, snapshot in newest.items() if snapshot is None]
    if missing:
        raise SnapshotNotFound("data.source_not_ingested", project=name, sources=missing)
    return {source: snapshot for source, snapshot in newest.items() if snapshot is not None}


def snapshots_of(ingestion_results: Mapping[str, IngestionResult]) -> dict[str, Snapshot]:
    """Return the snapshot of each ingested source."""
    return {name: result.snapshot for name, result in ingestion_results.items()}
