"""The door to Iceberg: named tables, immutable snapshots, appends that happen once."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import pyarrow as pa
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.conversions import from_bytes
from pyiceberg.exceptions import (
    NamespaceAlreadyExistsError,
    NoSuchTableError,
    ResolveError,
    TableAlreadyExistsError,
    ValidationError,
)
from pyiceberg.expressions import AlwaysTrue, And, BooleanExpression, EqualTo, GreaterThanOrEqual, In, LessThan
from pyiceberg.io import FileIO
from pyiceberg.manifest import ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot
from pyiceberg.types import TimestamptzType
from pyiceberg.utils.datetime import micros_to_timestamptz
from sqlalchemy.exc import IntegrityError, OperationalError

from cluster.errors import DataError, SnapshotNotFound
from cluster.settings import Settings
from cluster.storage.iceberg_part import IcebergPart, arrow_schema
from cluster.values import Snapshot

if TYPE_CHECKING:
    import ray.data

Where = Mapping[str, Collection[str]]
"""For each of some text columns the values that are meant."""

_KEY = "rayloop.key"
_BLOCK_ROWS = 65_536
_MIN_BLOCKS = 2


class Tables:
    """Tables of one catalog. Names are ``namespace.table``; timestamps are microseconds, UTC."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _catalog(self) -> Catalog:
        options = self._settings.iceberg
        warehouse = urlparse(options["warehouse"])
        if warehouse.scheme == "file":
            Path(warehouse.path).mkdir(parents=True, exist_ok=True)
        try:
            return load_catalog(**options)
        except OperationalError as error:
            raise DataError(
                f"the table catalog {options['uri']} does not answer", "check RAYLOOP_CATALOG_URI"
            ) from error

    def exists(self, name: str) -> bool:
        return self._catalog.table_exists(name)

    def append(self, name: str, rows: pa.Table, key: str = "", evolve: bool = False) -> Snapshot:
        """Append rows, creating the table when absent.

        With a ``key``, an append that was made before under the same key is not repeated: its
        snapshot is returned instead. That is what makes a stage safe to run again. With ``evolve``, columns (and
        fields of structs) that the table lacks are added to it, and those that the rows lack are null.
        Raises DataError for rows that the table cannot hold.
        """
        table = self._create(name, rows.schema)
        if key and (made := _keyed(table, key)):
            return made
        if evolve:
            rows = _evolved(rows, table, name)
        try:
            table.append(_aligned(rows, table, name), snapshot_properties={_KEY: key} if key else {})
        except OverflowError as error:
            # Iceberg's statistics are of Python's datetime.
            raise DataError(
                f"rows for table {name!r} hold a time outside of the years 1 to 9999", str(error)
            ) from error
        return _current(table, name)

    def write(
        self, name: str, dataset: ray.data.Dataset, schema: pa.Schema, key: str = "", replace: bool = False
    ) -> Snapshot:
        """Append a Ray Dataset, written by its workers and committed once; ``key`` as in append.

        With ``replace`` the new snapshot holds these rows alone; older snapshots stay readable.
        """
        from ray.data import SaveMode

        table = self._create(name, schema)
        if key and (made := _keyed(table, key)):
            return made
        dataset.write_iceberg(
            name,
            catalog_kwargs=self._settings.iceberg,
            snapshot_properties={_KEY: key} if key else {},
            mode=SaveMode.OVERWRITE if replace and table.current_snapshot() else SaveMode.APPEND,
        )
        return _current(self._load(name), name)

    def snapshot_for_key(self, name: str, key: str) -> Snapshot | None:
        """The snapshot appended under ``key``, if there is one."""
        return _keyed(self._load(name), key) if self.exists(name) else None

    def latest(self, name: str) -> Snapshot | None:
        if not self.exists(name):
            return None
        table = self._load(name)
        return _current(table, name) if table.current_snapshot() else None

    def read(
        self,
        name: str,
        snapshot: int | None = None,
        columns: Sequence[str] | None = None,
        where: tuple[str, str] | None = None,
    ) -> pa.Table:
        """Rows of a snapshot (default: the newest), of those with ``where`` = (column, value). Raises SnapshotNotFound."""
        table = self._load(name)
        self._check(table, name, snapshot)
        fields = tuple(columns) if columns else ("*",)
        rows: BooleanExpression = EqualTo(term=where[0], value=where[1]) if where else AlwaysTrue()  # type: ignore[arg-type]
        return table.scan(row_filter=rows, snapshot_id=snapshot, selected_fields=fields).to_arrow()

    def stream(
        self,
        name: str,
        snapshot: int | None = None,
        columns: Sequence[str] | None = None,
        between: tuple[str, float, float] | None = None,
    ) -> Iterator[pa.Table]:
        """The same rows a part at a time; ``between`` = (timestamp column, from, until), seconds since the epoch.

        Files whose statistics lie outside are not opened. Raises SnapshotNotFound.
        """
        table = self._load(name)
        self._check(table, name, snapshot)
        rows = _within(*between) if between else AlwaysTrue()
        scan = table.scan(row_filter=rows, snapshot_id=snapshot, selected_fields=tuple(columns) if columns else ("*",))
        for batch in scan.to_arrow_batch_reader():
            yield pa.Table.from_batches([batch])

    def columns(self, name: str) -> tuple[str, ...]:
        """Names of the table's columns. Raises SnapshotNotFound."""
        return tuple(field.name for field in self._load(name).schema().fields)

    def check(self) -> None:
        """Raises DataError when the catalog does not answer."""
        self._catalog.list_namespaces()

    def dataset(self, snapshot: Snapshot, columns: Sequence[str] | None = None) -> ray.data.Dataset:
        """A snapshot as a Ray Dataset. Raises SnapshotNotFound before any work starts."""
        import ray.data

        self._check(self._load(snapshot.table), snapshot.table, snapshot.id)
        rows = ray.data.read_iceberg(
            table_identifier=snapshot.table,
            snapshot_id=snapshot.id,
            catalog_kwargs=self._settings.iceberg,
            # Left to itself Ray makes 200 blocks of however little there is, at 15 ms each.
            override_num_blocks=max(_MIN_BLOCKS, snapshot.rows // _BLOCK_ROWS),
        )
        return rows.select_columns(list(columns)) if columns else rows

    def parts(self, snapshot: Snapshot) -> tuple[pa.Schema, list[IcebergPart]]:
        """A snapshot's schema and its data files, each to be read on its own. Raises SnapshotNotFound."""
        table = self._load(snapshot.table)
        self._check(table, snapshot.table, snapshot.id)
        scan = table.scan(snapshot_id=snapshot.id)
        files = [IcebergPart(table.metadata, table.io, scan.projection(), task) for task in scan.plan_files()]
        return arrow_schema(scan.projection()), files

    def table_names(self, namespace: str) -> list[str]:
        """Tables of a namespace, "namespace.table", in order; none when there is no such namespace."""
        if not self._catalog.namespace_exists(namespace):
            return []
        return sorted(".".join(identifier) for identifier in self._catalog.list_tables(namespace))

    def has_snapshot(self, snapshot: Snapshot) -> bool:
        """Whether the snapshot can still be read."""
        return self.exists(snapshot.table) and self._load(snapshot.table).snapshot_by_id(snapshot.id) is not None

    def latest_timestamp(self, name: str, column: str) -> datetime | None:
        """Largest value of a timestamp column, by the files' statistics; None without rows. Raises SnapshotNotFound."""
        table = self._load(name)
        field = table.schema().find_field(column)
        bounds = [(task.file.upper_bounds or {}).get(field.field_id) for task in table.scan().plan_files()]
        if not isinstance(field.field_type, TimestamptzType):
            raise DataError(f"column {column!r} of table {name!r} is no timestamp")
        values = [int(from_bytes(field.field_type, bound)) for bound in bounds if bound is not None]
        return micros_to_timestamptz(max(values)) if values else None

    def find(self, name: str, where: Where, columns: Sequence[str]) -> pa.Table:
        """Columns of the newest snapshot's rows whose text columns each have one of the values given."""
        return self._load(name).scan(row_filter=_filter(where), selected_fields=tuple(columns)).to_arrow()

    def in_history(self, name: str, where: Where) -> bool:
        """Whether an older snapshot has such rows, which were deleted or replaced since."""
        table = self._load(name)
        if all(snapshot.summary and snapshot.summary.operation == Operation.APPEND for snapshot in table.snapshots()):
            return False
        scans = (table.scan(_filter(where), snapshot_id=old.snapshot_id) for old in table.snapshots()[:-1])
        return any(scan.select(*where).to_arrow().num_rows for scan in scans)

    def delete(self, name: str, where: Where) -> int:
        """Delete the rows whose text columns each have one of the values given; returns how many there were.

        Files that hold such rows are written anew without them. What they held stays in older snapshots (``expire``).
        """
        found: int = self.find(name, where, tuple(where)).num_rows
        if found:
            self._load(name).delete(_filter(where))
        return found

    def expire(self, name: str) -> tuple[int, ...]:
        """Forget all snapshots but the newest, and delete the files that only they had; returns their ids.

        To be done after a deletion that must be final: whoever reads an old snapshot finds it gone. Appends that were
        made under a key are not known by it any more.
        """
        table = self._load(name)
        if any(manifest.deleted_files_count != 0 for manifest in _manifests(table)):
            # Of files that a snapshot deletes it still tells the bounds, which are values; the next one does not.
            table.append(table.schema().as_arrow().empty_table())
        newest = table.current_snapshot()
        old = [snapshot for snapshot in table.snapshots() if newest and snapshot.snapshot_id != newest.snapshot_id]
        if not old or newest is None:
            return ()
        left_over = set().union(*(_files(snapshot, table.io) for snapshot in old)) - _files(newest, table.io)
        ids = [snapshot.snapshot_id for snapshot in old]
        table.maintenance.expire_snapshots().by_ids(ids).commit()
        # After the commit, so that no snapshot is ever there without its files.
        for path in left_over:
            with suppress(FileNotFoundError):
                table.io.delete(path)
        return tuple(ids)

    def drop(self, name: str) -> None:
        """Forget a table and delete its files; absent is fine."""
        if not self.exists(name):
            return
        location = urlparse(self._load(name).location())
        if location.scheme not in ("", "file"):
            self._catalog.purge_table(name)
            return
        # A purge reads the manifests of every snapshot first: a minute for a log of some hundred appends.
        self._catalog.drop_table(name)
        if Path(location.path).exists():
            shutil.rmtree(location.path)

    def _create(self, name: str, schema: pa.Schema) -> Table:
        namespace = name.rpartition(".")[0]
        if not namespace:
            raise DataError(f"table name {name!r} lacks its namespace", "write it as namespace.table")
        if self.exists(name):
            return self._load(name)
        # Two processes may get here together; whoever comes second finds the first one's table. A catalog in SQL
        # looks whether the namespace is there, and then has it refused by the database.
        with suppress(NamespaceAlreadyExistsError, IntegrityError):
            self._catalog.create_namespace(namespace)
        try:
            return self._catalog.create_table(name, schema=schema)
        except TableAlreadyExistsError:
            return self._load(name)

    def _load(self, name: str) -> Table:
        try:
            return self._catalog.load_table(name)
        except NoSuchTableError as error:
            raise SnapshotNotFound(f"table {name!r} does not exist", "run the stage that writes it first") from error

    @staticmethod
    def _check(table: Table, name: str, snapshot: int | None) -> None:
        if snapshot is not None and table.snapshot_by_id(snapshot) is None:
            newest = table.current_snapshot()
            hint = f"the newest is {newest.snapshot_id}" if newest else "the table is empty"
            raise SnapshotNotFound(f"table {name!r} has no snapshot {snapshot}", hint)


def _filter(where: Where) -> BooleanExpression:
    """In, for each column; a value that occurs in no column is fine."""
    return reduce(And, (In(term=column, values=set(values)) for column, values in where.items()), AlwaysTrue())  # type: ignore[arg-type]


def _within(column: str, since: float, until: float) -> BooleanExpression:
    start = GreaterThanOrEqual(term=column, value=_moment(since))  # type: ignore[arg-type]
    return And(start, LessThan(term=column, value=_moment(until)))  # type: ignore[arg-type]


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def _manifests(table: Table) -> list[ManifestFile]:
    newest = table.current_snapshot()
    return newest.manifests(table.io) if newest else []


def _files(snapshot: IcebergSnapshot, io: FileIO) -> set[str]:
    """Every file that a snapshot needs: its list, its manifests, and the data files that they name as there."""
    files = {snapshot.manifest_list}
    for manifest in snapshot.manifests(io):
        files.add(manifest.manifest_path)
        files |= {entry.data_file.file_path for entry in manifest.fetch_manifest_entry(io, discard_deleted=True)}
    return files


def _keyed(table: Table, key: str) -> Snapshot | None:
    for snapshot in reversed(table.snapshots()):
        if _properties(snapshot).get(_KEY) == key:
            return _named(snapshot, ".".join(table.name()))
    return None


def _current(table: Table, name: str) -> Snapshot:
    snapshot = table.current_snapshot()
    if snapshot is None:
        raise SnapshotNotFound(f"table {name!r} is empty")
    return _named(snapshot, name)


def _named(snapshot: IcebergSnapshot, name: str) -> Snapshot:
    return Snapshot(table=name, id=snapshot.snapshot_id, rows=int(_properties(snapshot).get("total-records", 0)))


def _properties(snapshot: IcebergSnapshot) -> dict[str, Any]:
    return snapshot.summary.additional_properties if snapshot.summary else {}


def _evolved(rows: pa.Table, table: Table, name: str) -> pa.Table:
    """Widen the table to hold ``rows``, and ``rows`` to the table's columns."""
    try:
        with table.update_schema() as update:
            update.union_by_name(rows.schema)
    except (ValidationError, ResolveError) as error:
        raise DataError(f"rows for table {name!r} have a column of another type than it: {error}") from error
    for field in table.schema().as_arrow():
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows


def _aligned(rows: pa.Table, table: Table, name: str) -> pa.Table:
    """Order and cast the columns as the table has them."""
    schema = table.schema().as_arrow()
    missing = [field.name for field in schema if field.name not in rows.column_names]
    extra = [column for column in rows.column_names if column not in schema.names]
    if missing or extra:
        raise DataError(
            f"rows for table {name!r} have other columns than it: missing {missing or 'none'}, unknown {extra or 'none'}",
            "append rows of the table's schema, or use a new table",
        )
    return rows.select(schema.names).cast(schema)
