"""The history of a table: its snapshots, their tags, and the way back to one of them.

A tag is an Iceberg tag: other tools see it, and its snapshot is kept. Who gave it, and who rolled back and why, is
stored in properties of the table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update.snapshot import ManageSnapshots
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from cluster.errors import DataError
from cluster.storage.table_catalog import TableCatalog, ancestors
from cluster.values import Stored

_TAG, _ROLLBACK = "rayloop.tag.", "rayloop.rollback."
_TAG_NAME = re.compile(r"[A-Za-z][\w.-]{0,62}")
_on_conflict = retry(
    retry=retry_if_exception_type(CommitFailedException),
    stop=stop_after_attempt(8),
    wait=wait_random_exponential(0.1, max=2.0),
    reraise=True,
)


class TableSnapshot(NamedTuple):
    """A snapshot of a table."""

    id: int
    at: datetime
    operation: str
    rows: int
    added: int
    deleted: int
    tags: tuple[str, ...]
    state: Literal["current", "earlier", "rolled back"]


class TableChange(Stored, stored_as="change of a table"):
    """What somebody did to a table, as its properties keep it."""

    at: datetime
    by: str
    reason: str = ""
    snapshot: int
    """The snapshot that was tagged, or to which the table went back."""
    left: int | None = None
    """The snapshot that a rollback left."""


class Rollback(NamedTuple):
    """A table that went back to an earlier snapshot."""

    left: int
    current: int
    rows: tuple[int, int]
    """Rows before and after."""


def list_snapshots(tables: TableCatalog, name: str) -> list[TableSnapshot]:
    """Return the snapshots of a table, oldest first. Raises SnapshotNotFound when it does not exist."""
    table = tables.load(name)
    own = [snapshot.snapshot_id for snapshot in ancestors(table)]
    tags: dict[int, list[str]] = {}
    for tag, reference in sorted(table.refs().items()):
        if tag != MAIN_BRANCH:
            tags.setdefault(reference.snapshot_id, []).append(tag)
    return [_summarize(snapshot, own, tags.get(snapshot.snapshot_id, [])) for snapshot in table.snapshots()]


def changes(tables: TableCatalog, name: str) -> dict[str, TableChange]:
    """Return who gave each tag, by "tag NAME", and who rolled back, by "rollback NUMBER", in their order."""
    table = tables.load(name)
    # An erasure takes the tag and leaves the property.
    kept = [(f"tag {tag}", _TAG + tag) for tag in table.refs()]
    kept += [(f"rollback {key.removeprefix(_ROLLBACK)}", key) for key in table.properties if key.startswith(_ROLLBACK)]
    stored = [(what, table.properties[key]) for what, key in kept if key in table.properties]
    found = {what: TableChange.from_stored(value) for what, value in stored}
    return dict(sorted(found.items(), key=lambda change: change[1].at))


def find_snapshot(tables: TableCatalog, name: str, reference: str) -> int:
    """Return the snapshot that a tag or a number names; ``current`` names the current one.

    Raises:
        DataError: There is none.
    """
    return _find(tables.load(name), name, reference)


@_on_conflict
def add_tag(tables: TableCatalog, name: str, tag: str, reference: str, by: str, reason: str = "") -> int:
    """Give a snapshot a name.

    Args:
        tables: The catalog.
        name: Name of the table.
        tag: The name.
        reference: The snapshot: a tag, a number, or ``current``.
        by: Who does it.
        reason: Why.

    Returns:
        The snapshot.

    Raises:
        DataError: The name cannot be used, or another snapshot has it; or there is no such snapshot.
    """
    table = tables.load(name)
    if tag in (MAIN_BRANCH, "current") or not _TAG_NAME.fullmatch(tag):
        raise DataError("data.invalid_tag", tag=tag)
    snapshot = _find(table, name, reference)
    if tag in table.refs():
        if table.refs()[tag].snapshot_id == snapshot:
            return snapshot
        raise DataError("data.tag_exists", table=name, tag=tag, snapshot=table.refs()[tag].snapshot_id)
    with table.transaction() as transaction:
        ManageSnapshots(transaction).create_tag(snapshot, tag).commit()
        change = TableChange(at=datetime.now(UTC), by=by, reason=reason, snapshot=snapshot)
        transaction.set_properties({_TAG + tag: change.model_dump_json()})
    return snapshot


@_on_conflict
def remove_tag(tables: TableCatalog, name: str, tag: str) -> None:
    """Remove a name from a snapshot, which stays.

    Raises:
        DataError: No snapshot has it.
    """
    table = tables.load(name)
    if tag == MAIN_BRANCH or tag not in table.refs():
        raise _not_found(table, name, tag)
    with table.transaction() as transaction:
        ManageSnapshots(transaction).remove_tag(tag).commit()
        transaction.remove_properties(*(key for key in (_TAG + tag,) if key in table.properties))


@_on_conflict
def roll_back(tables: TableCatalog, name: str, reference: str, by: str, reason: str = "") -> Rollback:
    """Make an earlier snapshot the current one. The one that it leaves stays, so that this can be taken back.

    Args:
        tables: The catalog.
        name: Name of the table.
        reference: The snapshot: a tag or a number.
        by: Who does it.
        reason: Why.

    Raises:
        DataError: There is no such snapshot.
    """
    table = tables.load(name)
    target = _find(table, name, reference)
    current = table.current_snapshot()
    if current is None or current.snapshot_id == target:
        raise DataError("data.already_current", table=name, snapshot=reference)
    to = table.snapshot_by_id(target)
    change = TableChange(at=datetime.now(UTC), by=by, reason=reason, snapshot=target, left=current.snapshot_id)
    number = 1 + sum(key.startswith(_ROLLBACK) for key in table.properties)
    with table.transaction() as transaction:
        ManageSnapshots(transaction).set_current_snapshot(target).commit()
        transaction.set_properties({f"{_ROLLBACK}{number}": change.model_dump_json()})
    return Rollback(current.snapshot_id, target, (_count(current, "total-records"), _count(to, "total-records")))


def _find(table: Table, name: str, reference: str) -> int:
    current = table.current_snapshot()
    if reference == "current" and current is not None:
        return current.snapshot_id
    if reference in table.refs() and reference != MAIN_BRANCH:
        return table.refs()[reference].snapshot_id
    with suppress(ValueError):
        if table.snapshot_by_id(int(reference)) is not None:
            return int(reference)
    raise _not_found(table, name, reference)


def _not_found(table: Table, name: str, reference: str) -> DataError:
    tags = sorted(tag for tag in table.refs() if tag != MAIN_BRANCH)
    return DataError("data.tag_not_found", table=name, snapshot=reference, tags=tags)


def _summarize(snapshot: Snapshot, own: list[int], tags: list[str]) -> TableSnapshot:
    id = snapshot.snapshot_id
    return TableSnapshot(
        id=id,
        at=datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC),
        operation=snapshot.summary.operation.value if snapshot.summary else "",
        rows=_count(snapshot, "total-records"),
        added=_count(snapshot, "added-records"),
        deleted=_count(snapshot, "deleted-records"),
        tags=tuple(tags),
        state="current" if own[:1] == [id] else "earlier" if id in own else "rolled back",
    )


def _count(snapshot: Snapshot | None, name: str) -> int:
    properties: Mapping[str, Any] = snapshot.summary.additional_properties if snapshot and snapshot.summary else {}
    return int(properties.get(name, 0))
