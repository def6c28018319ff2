"""Final deletion of rows: from a table, and from the older snapshots that still contain them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import reduce

import pyarrow as pa
from pyiceberg.expressions import AlwaysTrue, And, BooleanExpression, In
from pyiceberg.io import FileIO
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Operation, Snapshot

from cluster.storage.table_catalog import TableCatalog, ancestors

Where = Mapping[str, Collection[str]]
"""For each of some text columns the values that match; a row matches when all of these columns do."""


def find_rows(tables: TableCatalog, name: str, where: Where, columns: Sequence[str]) -> pa.Table:
    """Return columns of the newest snapshot's matching rows.

    Args:
        tables: The catalog.
        name: Name of the table.
        where: Which rows match.
        columns: Columns to return.
    """
    return tables.load(name).scan(row_filter=_filter(where), selected_fields=tuple(columns)).to_arrow()


def in_history(tables: TableCatalog, name: str, where: Where) -> bool:
    """Return whether another snapshot has matching rows, which were deleted, replaced or rolled back since."""
    table = tables.load(name)
    own = [snapshot.snapshot_id for snapshot in ancestors(table)]
    if all(_only_appends(snapshot) and snapshot.snapshot_id in own for snapshot in table.snapshots()):
        return False
    others = (snapshot.snapshot_id for snapshot in table.snapshots() if snapshot.snapshot_id not in own[:1])
    scans = (table.scan(_filter(where), snapshot_id=other) for other in others)
    return any(scan.select(*where).to_arrow().num_rows for scan in scans)


def delete_rows(tables: TableCatalog, name: str, where: Where) -> int:
    """Delete the matching rows by rewriting their files. Older snapshots keep them until ``expire_snapshots``.

    Returns:
        The number of rows.
    """
    count: int = find_rows(tables, name, where, tuple(where)).num_rows
    if count:
        tables.load(name).delete(_filter(where))
    return count


def expire_snapshots(tables: TableCatalog, name: str) -> tuple[int, ...]:
    """Expire all snapshots but the newest, with their tags, and delete the files that only they used.

    Use it after a deletion that must be final: an older snapshot can no longer be read, and the keys of its appends are
    no longer known.

    Returns:
        Ids of the expired snapshots.
    """
    table = tables.load(name)
    newest = table.current_snapshot()
    if newest and any(manifest.deleted_files_count != 0 for manifest in newest.manifests(table.io)):
        # A snapshot that deletes files still lists their bounds, which are values; the next snapshot does not.
        table.append(table.schema().as_arrow().empty_table())
        newest = table.current_snapshot()
    old = [snapshot for snapshot in table.snapshots() if newest and snapshot.snapshot_id != newest.snapshot_id]
    if not old or newest is None:
        return ()
    unused = set().union(*(_files(snapshot, table.io) for snapshot in old)) - _files(newest, table.io)
    ids = [snapshot.snapshot_id for snapshot in old]
    with table.manage_snapshots() as change:
        for tag in [name for name, ref in table.refs().items() if ref.snapshot_id in ids and name != MAIN_BRANCH]:
            change.remove_tag(tag)
    table = tables.load(name)
    table.maintenance.expire_snapshots().by_ids(ids).commit()
    # After the commit, so that no snapshot is ever missing its files.
    for path in unused:
        with suppress(FileNotFoundError):
            table.io.delete(path)
    return tuple(ids)


def _only_appends(snapshot: Snapshot) -> bool:
    return snapshot.summary is not None and snapshot.summary.operation == Operation.APPEND


def _filter(where: Where) -> BooleanExpression:
    return reduce(And, (In(term=column, values=set(values)) for column, values in where.items()), AlwaysTrue())  # type: ignore[arg-type]


def _files(snapshot: Snapshot, io: FileIO) -> set[str]:
    """Every file that a snapshot uses: its manifest list, its manifests, and the data files that they list as live."""
    files = {snapshot.manifest_list}
    for manifest in snapshot.manifests(io):
        files.add(manifest.manifest_path)
        files |= {entry.data_file.file_path for entry in manifest.fetch_manifest_entry(io, discard_deleted=True)}
    return files
