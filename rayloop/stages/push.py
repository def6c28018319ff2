"""Events on their way into the online store as they happen, before they are landed."""

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
from features.online.materialize import push
from features.online.store import open_store
from features.sources.erasure_registry import ErasureRegistry
from features.sources.pseudonyms import load_pseudonym_key, needs_key
from features.sources.readers import CSV_NULLS, read_error
from features.sources.validation import REASON, check_rows, count_reasons
from rayloop.project import Project

# Text, as landing reads CSV: a code such as "00501" stays as it is, and one bad cell costs its row.
_READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".parquet": pl.read_parquet,
    ".csv": partial(pl.read_csv, infer_schema=False, null_values=list(CSV_NULLS)),
    ".ndjson": pl.read_ndjson,
    ".jsonl": pl.read_ndjson,
}


# By how much the clock of whoever pushes may be ahead of ours.
_AHEAD = timedelta(minutes=5)


class PushResult(NamedTuple):
    """Events that were new, by view, and how many rows were refused for which reason."""

    events: dict[str, int]
    refused: dict[str, int]


def push_events(
    project: Project,
    settings: Settings,
    source: str,
    rows: pl.DataFrame,
    producer: str = "",
    position: int | None = None,
) -> PushResult:
    """Give rows of a source to every view of it, checked and protected as landing does it.

    ``producer`` and ``position`` make it safe to deliver a batch again: features.online.materialize.push. Rows that break a rule
    of the source are left out, and events that count only later are left to the landing: a view whose state is said to have
    come as far as next year would take nothing from its table until then. Raises ProjectError for a source of another name.
    """
    declared = {one.name: one for one in project.sources}
    if source not in declared:
        raise ProjectError(f"{project.name} has no source {source!r}", f"it has {', '.join(sorted(declared))}")
    forgotten = ErasureRegistry.read(Tables(settings), project.name)
    names = load_pseudonym_key(settings) if needs_key(declared[source].columns) or forgotten.has_keyed_entries else None
    checked = check_rows(declared[source], rows, names)
    good = forgotten.drop_erased(checked.filter(pl.col(REASON).is_null()), names)
    store = open_store(settings.online_store_uri)
    views = [view for view in project.features.views if view.source == source]
    until = round((datetime.now(UTC) + _AHEAD).timestamp() * 1e6)
    events = {view.name: push(store, view, good, producer, position, until) for view in views}
    return PushResult(events, count_reasons(checked.get_column(REASON).drop_nulls().to_list()))


def push_file(project: Project, settings: Settings, source: str, path: Path) -> PushResult:
    """The rows of a file, as one batch: the same file again changes nothing. Raises DataError for a file it cannot read."""
    if path.suffix not in _READERS or not path.is_file():
        raise DataError(f"{path} is no file of events", f"give one that ends in {', '.join(_READERS)}")
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        rows = _READERS[path.suffix](path)
    except pl.exceptions.PolarsError as error:
        raise read_error(str(path), error) from error
    return push_events(project, settings, source, rows, f"file/{content}", 0)
