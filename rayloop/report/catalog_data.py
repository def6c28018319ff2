"""Collect the catalog of a project's features from the stores that own it, and format it for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import polars as pl
from rich.table import Table

from cluster.names import CHAMPION
from cluster.times import format_utc
from features.definitions import FeatureView
from features.inspection import feature_catalog
from features.inspection.feature_catalog import FeatureCatalog, ViewEntry
from features.online.materialize import watermark
from features.profiles.profile import Profile
from features.sources.validation import staleness
from rayloop.context import ProjectContext
from rayloop.lineage import VersionLineage, load_lineages

ViewsByVersion = dict[str, tuple[FeatureView, ...]]

_SECONDS = "%Y-%m-%d %H:%M:%S UTC"


def build_catalog(context: ProjectContext, now: datetime) -> FeatureCatalog:
    """Collect the project's views, with the versions of all registered models that use them."""
    lineages = load_lineages(context.registry, context.registry.model_names())
    profile, frame = _statistics(context)
    versions = _views_by_version(context, lineages)
    return FeatureCatalog(
        project=context.project.name,
        at=now,
        frame=frame,
        views=tuple(_entry(context, view, profile, versions, now) for view in context.project.features.views),
        faults=tuple(f"{lineage.version}: {lineage.error}" for lineage in lineages if lineage.manifest is None),
    )


def catalog_tables(catalog: FeatureCatalog) -> Iterator[Table]:
    """Yield a table for each view."""
    for view in catalog.views:
        owner = f"  owner {view.owner}" if view.owner else ""
        title = f"{view.name}  by {', '.join(view.keys)}  from {view.source}{owner}"
        table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for i, column in enumerate(("feature", "made", "missing", "mean", "std", "low", "high")):
            table.add_column(column, justify="left" if i < 2 else "right")
        for feature in view.features:
            cells = feature.cells()
            table.add_row(*((*cells[:3], cells[-1]) if feature.most_common else cells[:-1]))
        facts = (
            view.description,
            f"landed until {format_utc(view.ingested_until, _SECONDS)}",
            f"online until {format_utc(view.online_until, _SECONDS)}",
            view.staleness,
            f"used by {', '.join(view.users)}" if view.users else "used by no registered version",
        )
        table.caption = "; ".join(fact for fact in facts if fact)
        table.caption_justify = "left"
        yield table


def _statistics(context: ProjectContext) -> tuple[Profile | None, str]:
    snapshot = context.tables.latest(context.frame_table)
    if snapshot is None:
        return None, ""
    columns = tuple(c for view in context.project.features.views for c in view.columns)
    frame = pl.DataFrame(context.tables.read(snapshot.table, snapshot.id, [c.name for c in columns]))
    return feature_catalog.profile_columns(columns, frame), f"{snapshot.table}@{snapshot.id}, {snapshot.rows:,} rows"


def _views_by_version(context: ProjectContext, lineages: list[VersionLineage]) -> ViewsByVersion:
    """Return views by the version that uses them; champions are marked."""
    models = {lineage.version.model for lineage in lineages}
    champions = {model: context.registry.version_by_alias(model, CHAMPION) for model in models}
    views_by_version = {}
    for version, manifest, _ in lineages:
        champion = champions[version.model]
        mark = " (champion)" if champion and champion.version == version.version else ""
        if manifest is not None:
            views_by_version[f"{version}{mark}"] = manifest.features.views
    return views_by_version


def _entry(
    context: ProjectContext, view: FeatureView, profile: Profile | None, versions: ViewsByVersion, now: datetime
) -> ViewEntry:
    source = next(source for source in context.project.sources if source.name == view.source)
    table = f"{context.project.name}.{source.name}"
    there = context.tables.exists(table)
    newest = context.tables.latest_timestamp(table, source.known_at) if there else None
    online = watermark(context.store, view)
    return ViewEntry(
        name=view.name,
        hash=view.content_hash,
        owner=view.owner,
        description=view.description,
        keys=view.entity.keys,
        source=view.source,
        ingested_until=_counts(context, view, table) if there else None,
        online_until=None if online is None else datetime.fromtimestamp(online / 1e6, UTC),
        staleness=staleness(source, newest, now),
        users=feature_catalog.view_users(view, versions),
        features=feature_catalog.feature_entries(view, profile),
    )


def _counts(context: ProjectContext, view: FeatureView, table: str) -> datetime | None:
    """Return from when the view's newest ingested event counts: how current its online state should be."""
    times = [context.tables.latest_timestamp(table, column) for column in (view.event_time, view.known_at) if column]
    known = [at for at in times if at is not None]
    return max(known) + view.delay if known else None
