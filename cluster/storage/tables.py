"""Iceberg tables: read snapshots, append rows once. Only cluster/storage uses pyiceberg."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyiceberg.conversions import from_bytes
from pyiceberg.exceptions import CommitFailedException, ResolveError, ValidationError
from pyiceberg.expressions import AlwaysTrue, And, BooleanExpression, EqualTo, GreaterThanOrEqual, LessThan
from pyiceberg.table import DataScan, Table, TableProperties
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot
from pyiceberg.types import TimestamptzType
from pyiceberg.utils.datetime import micros_to_timestamptz
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from cluster.errors import DataError, SnapshotNotFound
from cluster.storage.iceberg_part import IcebergPart, arrow_schema
from cluster.storage.table_catalog import TableCatalog, ancestors
from cluster.values import Snapshot

if TYPE_CHECKING:
    import ray.data

_KEY = "rayloop.key"
_BLOCK_ROWS = 65_536
_MIN_BLOCKS = 2


class Tables(TableCatalog):
    """Rows of the tables of one catalog. Timestamps are microseconds, UTC."""

    def append(self, name: str, rows: pa.Table, key: str = "", evolve: bool = False) -> Snapshot:
        """Append rows; the table is created when it does not exist.

        Args:
            name: Name of the table.
            rows: The rows.
            key: An append under a key that the table has seen is not repeated, even by two callers at once: what got no
                clear answer can be appended again.
            evolve: Add columns, and fields of structs, that the table lacks; those that the rows lack are null.

        Returns:
            The new snapshot, or the one of the earlier append under ``key``.

        Raises:
            DataError: The rows do not fit the table.
        """
        try:
            return self._append(name, rows, key, evolve)
        except OverflowError as error:
            # Iceberg keeps statistics as Python's datetime.
            raise DataError("data.time_out_of_range", table=name, reason=str(error)) from error

    @retry(
        retry=retry_if_exception_type(CommitFailedException),
        stop=stop_after_attempt(8),
        wait=wait_random_exponential(0.1, max=2.0),
        reraise=True,
    )
    def _append(self, name: str, rows: pa.Table, key: str, evolve: bool) -> Snapshot:
        """Append to the table as it is now, or fail because another commit came first."""
        table = self.load_or_create(name, rows.schema)
        if key and (earlier := _find_by_key(table, key)):
            return earlier
        if evolve:
            rows = _evolve(rows, table, name)
        # After a conflict pyiceberg itself would append to the newer table, which may have seen the key. Not stored.
        table.metadata.properties[TableProperties.COMMIT_NUM_RETRIES] = "0"
        table.append(_align(rows, table, name), snapshot_properties={_KEY: key} if key else {})
        return _current(table, name)

    def write(
        self,
        name: str,
        dataset: ray.data.Dataset,
        schema: pa.Schema,
        key: str = "",
        replace: bool = False,
        properties: Mapping[str, str] | None = None,
    ) -> Snapshot:
        """Append a Ray Dataset, written by its workers and committed once.

        Args:
            name: Name of the table.
            dataset: The rows.
            schema: Schema of the table when it has to be created.
            key: As in ``append``.
            replace: The new snapshot has only these rows; older snapshots stay readable.
            properties: Facts about the rows to store with the snapshot.
        """
        from ray.data import SaveMode

        table = self.load_or_create(name, schema)
        if key and (earlier := _find_by_key(table, key)):
            return earlier
        dataset.write_iceberg(
            name,
            catalog_kwargs=self._settings.iceberg,
            snapshot_properties={**(properties or {}), **({_KEY: key} if key else {})},
            mode=SaveMode.OVERWRITE if replace and table.current_snapshot() else SaveMode.APPEND,
        )
        return _current(self.load(name), name)

    def snapshot_for_key(self, name: str, key: str) -> Snapshot | None:
        """Return the snapshot that was appended under ``key``; None when there is none."""
        return _find_by_key(self.load(name), key) if self.exists(name) else None

    def snapshot_properties(self, snapshot: Snapshot) -> dict[str, Any]:
        """Return the properties of a snapshot. Raises SnapshotNotFound."""
        stored = self._load_with(snapshot.table, snapshot.id).snapshot_by_id(snapshot.id)
        return _properties(stored) if stored else {}

    def latest(self, name: str) -> Snapshot | None:
        """Return the newest snapshot; None when the table does not exist or is empty."""
        snapshot = self.load(name).current_snapshot() if self.exists(name) else None
        return _snapshot(snapshot, name) if snapshot else None

    def read(
        self,
        name: str,
        snapshot: int | None = None,
        columns: Sequence[str] | None = None,
        where: tuple[str, str] | None = None,
    ) -> pa.Table:
        """Read the rows of a snapshot.

        Args:
            name: Name of the table.
            snapshot: Id of the snapshot; default: the newest.
            columns: Columns to read; default: all.
            where: (column, value): only the rows with this value.

        Raises:
            SnapshotNotFound: The table or the snapshot does not exist.
        """
        rows = EqualTo(term=where[0], value=where[1]) if where else AlwaysTrue()  # type: ignore[arg-type]
        return self._scan(name, snapshot, columns, rows).to_arrow()

    def stream(
        self,
        name: str,
        snapshot: int | None = None,
        columns: Sequence[str] | None = None,
        between: tuple[str, float, float] | None = None,
    ) -> Iterator[pa.Table]:
        """Read the rows of a snapshot in parts.

        Args:
            name: Name of the table.
            snapshot: Id of the snapshot; default: the newest.
            columns: Columns to read; default: all.
            between: (timestamp column, from, until) in seconds since the epoch; files whose statistics are outside are
                not opened.

        Raises:
            SnapshotNotFound: The table or the snapshot does not exist.
        """
        rows = _within(*between) if between else AlwaysTrue()
        for batch in self._scan(name, snapshot, columns, rows).to_arrow_batch_reader():
            yield pa.Table.from_batches([batch])

    def columns(self, name: str, nested: bool = False) -> tuple[str, ...]:
        """Return the names of a table's columns, with ``nested`` also "struct.field". Raises SnapshotNotFound."""
        schema = self.load(name).schema()
        return tuple(schema.column_names) if nested else tuple(field.name for field in schema.fields)

    def dataset(self, snapshot: Snapshot, columns: Sequence[str] | None = None) -> ray.data.Dataset:
        """Return a snapshot as a Ray Dataset. Raises SnapshotNotFound before any work starts."""
        import ray.data

        self._load_with(snapshot.table, snapshot.id)
        rows = ray.data.read_iceberg(
            table_identifier=snapshot.table,
            snapshot_id=snapshot.id,
            catalog_kwargs=self._settings.iceberg,
            # By default Ray makes 200 blocks of any number of rows, at 15 ms each.
            override_num_blocks=max(_MIN_BLOCKS, snapshot.rows // _BLOCK_ROWS),
        )
        return rows.select_columns(list(columns)) if columns else rows

    def parts(self, snapshot: Snapshot) -> tuple[pa.Schema, list[IcebergPart]]:
        """Return a snapshot's schema and its data files, which are read independently. Raises SnapshotNotFound."""
        table = self._load_with(snapshot.table, snapshot.id)
        scan = table.scan(snapshot_id=snapshot.id)
        files = [IcebergPart(table.metadata, table.io, scan.projection(), task) for task in scan.plan_files()]
        return arrow_schema(scan.projection()), files

    def table_properties(self, name: str) -> dict[str, str]:
        """Return the properties of a table. Raises SnapshotNotFound."""
        return dict(self.load(name).properties)

    @retry(
        retry=retry_if_exception_type(CommitFailedException),
        stop=stop_after_attempt(8),
        wait=wait_random_exponential(0.1, max=2.0),
        reraise=True,
    )
    def set_properties(self, name: str, schema: pa.Schema, properties: Mapping[str, str]) -> None:
        """Set properties of a table, which is created with ``schema`` when it does not exist."""
        table = self.load_or_create(name, schema)
        if any(table.properties.get(key) != value for key, value in properties.items()):
            with table.transaction() as change:
                change.set_properties(dict(properties))

    def has_snapshot(self, snapshot: Snapshot) -> bool:
        """Return whether a snapshot can still be read."""
        return self.exists(snapshot.table) and self.load(snapshot.table).snapshot_by_id(snapshot.id) is not None

    def latest_timestamp(self, name: str, column: str) -> datetime | None:
        """Return the largest value of a timestamp column, by the files' statistics; None without rows.

        Raises:
            SnapshotNotFound: The table does not exist.
            DataError: The column is not a timestamp.
        """
        table = self.load(name)
        field = table.schema().find_field(column)
        bounds = [(task.file.upper_bounds or {}).get(field.field_id) for task in table.scan().plan_files()]
        if not isinstance(field.field_type, TimestamptzType):
            raise DataError(
                "data.not_a_timestamp", where=f"table {name!r}", column=column, type=str(field.field_type), table=name
            )
        values = [int(from_bytes(field.field_type, bound)) for bound in bounds if bound is not None]
        return micros_to_timestamptz(max(values)) if values else None

    def _scan(
        self, name: str, snapshot: int | None, columns: Sequence[str] | None, rows: BooleanExpression
    ) -> DataScan:
        fields = tuple(columns) if columns else ("*",)
        return self._load_with(name, snapshot).scan(row_filter=rows, snapshot_id=snapshot, selected_fields=fields)

    def _load_with(self, name: str, snapshot: int | None) -> Table:
        """Load a table, which must have the snapshot."""
        table = self.load(name)
        if snapshot is not None and table.snapshot_by_id(snapshot) is None:
            newest = table.current_snapshot()
            raise SnapshotNotFound(
                "data.snapshot_not_found", table=name, snapshot=snapshot, newest=newest.snapshot_id if newest else None
            )
        return table


def _within(column: str, since: float, until: float) -> BooleanExpression:
    start, end = (datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds") for at in (since, until))
    return And(GreaterThanOrEqual(term=column, value=start), LessThan(term=column, value=end))  # type: ignore[arg-type]


def _find_by_key(table: Table, key: str) -> Snapshot | None:
    found = (snapshot for snapshot in ancestors(table) if _properties(snapshot).get(_KEY) == key)
    return next((_snapshot(snapshot, ".".join(table.name())) for snapshot in found), None)


def _current(table: Table, name: str) -> Snapshot:
    snapshot = table.current_snapshot()
    if snapshot is None:
        raise SnapshotNotFound("data.table_empty", table=name)
    return _snapshot(snapshot, name)


def _snapshot(snapshot: IcebergSnapshot, name: str) -> Snapshot:
    return Snapshot(table=name, id=snapshot.snapshot_id, rows=int(_properties(snapshot).get("total-records", 0)))


def _properties(snapshot: IcebergSnapshot) -> dict[str, Any]:
    return snapshot.summary.additional_properties if snapshot.summary else {}


def _evolve(rows: pa.Table, table: Table, name: str) -> pa.Table:
    """Add the columns that the table lacks to it, and those that ``rows`` lack to ``rows``."""
    try:
        with table.update_schema() as update:
            update.union_by_name(rows.schema)
    except (ValidationError, ResolveError) as error:
        raise DataError("data.type_mismatch", table=name, reason=str(error)) from error
    for field in table.schema().as_arrow():
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows


def _align(rows: pa.Table, table: Table, name: str) -> pa.Table:
    """Order and cast the columns like the table's."""
    schema = table.schema().as_arrow()
    missing = [field.name for field in schema if field.name not in rows.column_names]
    extra = [column for column in rows.column_names if column not in schema.names]
    if missing or extra:
        raise DataError("data.columns_mismatch", table=name, missing=missing, unknown=extra)
    return rows.select(schema.names).cast(schema)
