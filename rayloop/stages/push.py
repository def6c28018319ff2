"""Push events into the online store as they happen, before they are ingested."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import polars as pl

from cluster.errors import DataError, ProjectError
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.times import epoch_microseconds
from features.online.layout_upgrade import require_loaded
from features.online.materialize import push
from features.online.store import open_store
from features.sources.erasure_registry import ErasureRegistry
from features.sources.pseudonyms import load_pseudonym_key, needs_key
from features.sources.readers import read_error
from features.sources.row_versions import PENDING, KnownRows, fingerprint_columns, separate_known
from features.sources.source import Source
from features.sources.stored_rows import stored_values
from features.sources.table_files import CSV_NULLS
from features.sources.validation import REASON, check_rows, count_reasons
from features.types import KNOWN_FROM
from rayloop.project import Project

# CSV as text, like ingestion: a code such as "00501" keeps its zeros, and a bad cell rejects only its row.
_READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".parquet": pl.read_parquet,
    ".csv": partial(pl.read_csv, infer_schema=False, null_values=list(CSV_NULLS)),
    ".ndjson": pl.read_ndjson,
    ".jsonl": pl.read_ndjson,
}


# By how much a producer's clock may be ahead of this machine's.
_AHEAD = timedelta(minutes=5)


class PushResult(NamedTuple):
    """What a push changed."""

    events: dict[str, int]
    """New events, by view."""
    refused: dict[str, int]
    """Rows that were rejected, by reason."""


def push_file(project: Project, settings: Settings, source: str, path: Path) -> PushResult:
    """Push a file's rows to all views of a source, validated and pseudonymized as ingestion does.

    The rows are one batch: the same file again changes nothing (see features.online.materialize.push).

    Rows that break a rule of the source are skipped. Events that count only in the future are left to ingestion: a view
    whose state claims to be current until next year would take nothing from its table until then.

    Args:
        project: The project.
        settings: Where the stores are.
        source: Name of the source.
        path: Parquet, CSV or NDJSON, by its suffix.

    Raises:
        DataError: The file is missing, has another suffix or cannot be read; it corrects rows; or the project's views
            must be loaded first, after an upgrade.
        ProjectError: The project has no such source.
    """
    batch, rows = _read_events(path)
    declared = {each.name: each for each in project.sources}
    if source not in declared:
        name, user = project.name, f"project {project.name!r}"
        raise ProjectError("project.unknown_source", user=user, source=source, declared=sorted(declared), project=name)
    erasure_registry = ErasureRegistry.read(Tables(settings), project.name)
    keyed = needs_key(declared[source].columns) or erasure_registry.has_keyed_entries
    names = load_pseudonym_key(settings) if keyed else None
    checked = check_rows(declared[source], rows, names)
    good = erasure_registry.drop_erased(checked.filter(pl.col(REASON).is_null()), names)
    _refuse_corrections(project.name, Tables(settings), declared[source], good)
    store = open_store(settings.online_store_uri, project.name)
    views = [view for view in project.features.views if view.source == source]
    require_loaded(store, project.name, views)
    until = epoch_microseconds(datetime.now(UTC) + _AHEAD)
    events = {view.name: push(store, view, good, batch, 0, until) for view in views}
    return PushResult(events, count_reasons(checked.get_column(REASON).drop_nulls().to_list()))


def _refuse_corrections(project: str, tables: Tables, source: Source, rows: pl.DataFrame) -> None:
    """Raise DataError when a row has the key of a stored one, or of another in the file, and other values.

    The event that it corrects is in the state of an entity that the row need not name, and may be gone from it.
    """
    count = rows.filter(pl.col(KNOWN_FROM).is_not_null()).height
    if snapshot := tables.latest(f"{project}.{source.name}"):
        keys = rows.select(source.key)
        stored = stored_values(tables, snapshot, fingerprint_columns(source))
        same_keys = (part.join(keys, on=list(source.key), how="semi") for part in stored)
        known = KnownRows.build(source, same_keys)
        others, _ = separate_known(source, rows.filter(pl.col(KNOWN_FROM).is_null()), known)
        count += others.filter(PENDING).height
    if count:
        raise DataError("data.push_corrects_rows", project=project, source=source.name, rows=count)


def _read_events(path: Path) -> tuple[str, pl.DataFrame]:
    """Return a name of the file's content, and its rows."""
    if path.suffix not in _READERS or not path.is_file():
        raise DataError("data.not_an_event_file", path=str(path), endings=list(_READERS))
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        return f"file/{content}", _READERS[path.suffix](path)
    except pl.exceptions.PolarsError as error:
        raise read_error(str(path), error) from error
