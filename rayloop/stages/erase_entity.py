"""Erase an entity, as a data subject may request: delete and report its rows everywhere that rayloop stores rows.

First the rows are deleted, then the snapshots that still contain them expire with their files, then the online states
computed from them are rebuilt from the remaining rows. An erasure that was interrupted continues when it is run again.
Afterwards no table, log or file contains the entity's name, only a digest of it, by which ingestion skips its rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import NamedTuple

import polars as pl
import ray

from cluster.errors import ProjectError
from cluster.names import annotations_table, label_candidates_table, labels_table, predictions_table
from cluster.storage.erasure import Where, delete_rows, expire_snapshots, find_rows, in_history
from features.definitions import Column, FeatureView
from features.manifest import PROFILE_FILE
from features.online.backfill import rebuild_entities
from features.profiles.reference_profile import ReferenceProfile
from features.sources.erasure_registry import entity_digest, record_erasure
from features.sources.ingestion import QUARANTINE
from features.sources.pseudonyms import PseudonymKey, load_pseudonym_key, needs_key
from features.sources.source import Source
from features.sources.stored_rows import stored_parts
from features.types import ID
from rayloop.context import ProjectContext
from rayloop.lineage import VersionLineage, collect_views, load_lineages
from rayloop.stages.deploy import flush_log_if_served

Entity = Mapping[str, str]

_BEYOND = (
    "the source itself, and backups of tables and stores",
    "files written by `rayloop predict`, and responses that callers stored",
    "live profiles of the drift monitor (counts of category values) until their windows have passed",
    "background rows in the explainers of versions: up to 64 training rows, encoded, without keys that are no features",
    "free pages of the online store, until they are overwritten",
)


class Deletion(NamedTuple):
    """What was deleted in one place."""

    place: str
    number: int
    """Rows of a table, or states of an online view."""
    note: str = ""
    """What else happened there."""

    def __str__(self) -> str:
        return f"{self.place}: {self.number:,} deleted" + (f", {self.note}" if self.note else "")


class ErasureReport(NamedTuple):
    """What an erasure deleted."""

    deleted: tuple[Deletion, ...]
    remains: tuple[str, ...]
    """Places that may contain the entity and that rayloop cannot delete from."""


def erase_entity(context: ProjectContext, entity: Entity, at: datetime) -> ErasureReport:
    """Delete an entity's rows everywhere.

    Args:
        context: The project.
        entity: Value by column name.
        at: The time of the request.

    Raises:
        ProjectError: A column is not a category of the project.
    """
    project = context.project
    columns = _columns(context, entity)
    names = load_pseudonym_key(context.settings) if needs_key(columns) or context.settings.personal_key_file else None
    where = _spellings(entity, names)
    # First, so that no ingestion adds rows again in the meantime.
    for spelling in _stored_forms(entity, columns, names):
        record_erasure(context.tables, project.name, spelling, names, at)
    lineages = load_lineages(context.registry, [project.name])
    views = collect_views(lineages, project.features.views)
    deleted: list[Deletion] = []
    for source in project.sources:
        deleted += _from_source(context, source, [v for v in views if v.source == source.name], where)
    deleted += [_from_quarantine(context, where), *_from_frames(context, where), *_from_log(context, where)]
    report = ErasureReport(tuple(deleted), (*_in_versions(context, lineages, where), *_uncommitted(context), *_BEYOND))
    _note(context, entity_digest(entity, names), report, at)
    return report


def _columns(context: ProjectContext, entity: Entity) -> list[Column]:
    """Return the declared columns with the entity's column names."""
    declared = [c for source in context.project.sources for c in source.columns]
    declared += context.project.features.request
    texts = sorted({c.name for c in declared if c.kind == "category" and c.personal != "drop"})
    unknown = [name for name in entity if name not in texts]
    if unknown or not entity:
        raise ProjectError(
            "project.unknown_entity_column", project=context.project.name, columns=unknown, choices=list(texts)
        )
    return [c for c in declared if c.name in entity]


def _spellings(entity: Entity, names: PseudonymKey | None) -> dict[str, tuple[str, ...]]:
    """Each value in plain text and as a token: a column may have been marked personal after rows were stored."""
    return {name: (value, names.token(value)) if names else (value,) for name, value in entity.items()}


def _stored_forms(entity: Entity, columns: Iterable[Column], names: PseudonymKey | None) -> list[dict[str, str]]:
    """The entity as its sources store it: in plain text, or as tokens."""
    hashed = {column.name for column in columns if column.personal == "hash"}
    tokens = {name: names.token(value) if names and name in hashed else value for name, value in entity.items()}
    return [tokens] if tokens == dict(entity) else [tokens, dict(entity)]


def _from_source(context: ProjectContext, source: Source, views: list[FeatureView], where: Where) -> list[Deletion]:
    """Delete from a source's table and from the online states computed from it."""
    name, tables = f"{context.project.name}.{source.name}", context.tables
    if not tables.exists(name):
        return []
    if missing := set(where) - set(tables.columns(name)):
        return [Deletion(name, 0, f"no column {', '.join(sorted(missing))}")]
    keys = sorted({key for view in views for key in view.entity.keys})
    deleted_keys = pl.DataFrame(find_rows(tables, name, where, keys)) if keys else pl.DataFrame()
    deleted = [_from_table(context, name, where)]
    return deleted + [_from_view(context, view, name, deleted_keys, where) for view in views]


def _from_table(context: ProjectContext, name: str, where: Where) -> Deletion:
    tables = context.tables
    count = delete_rows(tables, name, where)
    expired = expire_snapshots(tables, name) if count or in_history(tables, name, where) else ()
    return Deletion(name, count, f"older snapshots expired: {len(expired)}" if expired else "")


def _from_view(
    context: ProjectContext, view: FeatureView, table: str, deleted_keys: pl.DataFrame, where: Where
) -> Deletion:
    keys = list(view.entity.keys)
    entities = [deleted_keys.select(keys)] if deleted_keys.width else []
    if set(keys) == set(where):
        # Also when no ingested row contains it: it may have been pushed.
        spellings = list(product(*(where[key] for key in keys)))
        entities += [pl.DataFrame(spellings, dict.fromkeys(keys, pl.String), orient="row")]
    if not entities:
        return Deletion(f"online view {view.name}", 0)
    affected = pl.concat(entities).unique()
    left = context.tables.latest(table)
    parts = stored_parts(context.tables, left) if left else []

    def batches() -> Iterator[pl.DataFrame]:
        return (pl.DataFrame(batch) for part in parts for batch in part.read(view.source_columns))

    # Also what rayloop 0.1 stored for all projects together.
    rebuild_entities(context.store.shared, view, batches(), affected)
    rebuild = rebuild_entities(context.store, view, batches(), affected)
    return Deletion(f"online view {view.name}", rebuild.removed_entities, f"states rebuilt: {rebuild.entities:,}")


def _from_quarantine(context: ProjectContext, where: Where) -> Deletion:
    name = f"{context.project.name}.{QUARANTINE}"
    if not context.tables.exists(name):
        return Deletion(name, 0)
    rows = context.tables.read(name, columns=["row"])["row"].to_pylist()
    matching = {row for row in rows if _is_of(json.loads(row), where)}
    return _from_table(context, name, {"row": matching}) if matching else Deletion(name, 0)


def _is_of(row: dict[str, object], where: Where) -> bool:
    return all(str(row.get(column)) in values for column, values in where.items())


def _from_frames(context: ProjectContext, where: Where) -> list[Deletion]:
    """Delete from the training frames of this and of earlier feature sets."""
    prefix = f"{context.project.name}.frame_"
    deleted = []
    for name in context.tables.table_names(context.project.name):
        if not name.startswith(prefix):
            continue
        present = context.tables.columns(name)
        # Frames store the examples' id under their own name for it.
        frame_columns = {c: ID if c == context.project.examples.id and c not in present else c for c in where}
        if missing := set(frame_columns.values()) - set(present):
            deleted.append(Deletion(name, 0, f"no column {', '.join(sorted(missing))}"))
        else:
            deleted.append(_from_table(context, name, {frame_columns[c]: values for c, values in where.items()}))
    return deleted


def _from_log(context: ProjectContext, where: Where) -> list[Deletion]:
    """Delete logged predictions about the entity, and their labels."""
    project, tables = context.project.name, context.tables
    flush_log_if_served(context)
    answers = predictions_table(project)
    by_id = [name(project) for name in (labels_table, label_candidates_table, annotations_table)]
    if not tables.exists(answers):
        return []
    rows = pl.DataFrame(tables.read(answers, columns=["id", "features"]))
    features = rows.get_column("features").struct.unnest()
    if missing := set(where) - set(features.columns):
        return [Deletion(answers, 0, f"requests have no column {', '.join(sorted(missing))}")]
    matches = pl.all_horizontal(pl.col(column).is_in(list(values)) for column, values in where.items())
    ids = rows.get_column("id").filter(features.select(matches).to_series().fill_null(False)).unique().to_list()
    # The answers last: an erasure that is interrupted finds the ids of the others there when it is repeated.
    log_tables = [*(name for name in by_id if tables.exists(name)), answers]
    return [_from_table(context, name, {"id": ids}) if ids else Deletion(name, 0) for name in log_tables]


def _uncommitted(context: ProjectContext) -> list[str]:
    """What the log writer may still hold, where this process is not connected to the cluster."""
    if ray.is_initialized() or not context.settings.address:
        return []
    return ["predictions and labels that are not in the log yet: run the command again in a minute"]


def _in_versions(context: ProjectContext, lineages: list[VersionLineage], where: Where) -> list[str]:
    """Describe the versions that contain the entity, or were trained on a snapshot that has expired."""
    notes = []
    for version, manifest, error in lineages:
        if manifest is None:
            notes.append(f"{version} could not be checked: {error}")
            continue
        vocabularies = manifest.encoder.vocabularies
        listed = [c for c, values in where.items() if set(values) & set(vocabularies.get(c, ()))]
        if listed:
            notes.append(
                f"{version} has it in the vocabulary of {', '.join(listed)};"
                " withdraw the version once a retrained one serves"
            )
        if counted := _counted(context.registry.fetch(version) / PROFILE_FILE, where):
            notes.append(
                f"the reference profile of {version}, and the drift monitor's copy, count its value of"
                f" {', '.join(counted)}"
            )
        if not context.tables.has_snapshot(manifest.snapshot):
            notes.append(
                f"{version} was trained on {manifest.snapshot.table}@{manifest.snapshot.id}, which has expired"
            )
    return notes


def _counted(profile: Path, where: Where) -> list[str]:
    """Return the columns of which a reference profile counts one of the values."""
    if not profile.exists():
        return []
    categories = ReferenceProfile.from_bytes(profile.read_bytes()).total.categories
    return [c for c, values in where.items() if c in categories and set(values) & set(categories[c].counts)]


def _note(context: ProjectContext, entity: str, report: ErasureReport, at: datetime) -> None:
    """Store the report as evidence that the request was met; it names the digest, not the entity."""

    body = {
        "entity": entity,
        "at": at.isoformat(),
        "deleted": [deletion._asdict() for deletion in report.deleted],
        "remains": list(report.remains),
    }
    context.write(f"forgotten/{at:%Y%m%dT%H%M%S%f}.json", json.dumps(body, indent=1))
