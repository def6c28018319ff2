"""The Iceberg catalog: create, load, list and drop tables."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pyarrow as pa
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NamespaceAlreadyExistsError, NoSuchTableError, TableAlreadyExistsError
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.snapshots import Snapshot
from sqlalchemy import Connection, event
from sqlalchemy.exc import IntegrityError, OperationalError

from cluster.errors import DataError, SnapshotNotFound
from cluster.limits import limit_database
from cluster.settings import Settings, hide_password
from cluster.storage.claims import Claim


class TableCatalog:
    """Tables of one catalog by name, "namespace.table".

    Args:
        settings: Where the catalog is.
        claim: Of the one writer of these tables; without it, a commit checks no claim.
    """

    def __init__(self, settings: Settings, claim: Claim | None = None) -> None:
        self._settings = settings
        self._claim = claim

    @cached_property
    def catalog(self) -> Catalog:
        """pyiceberg's catalog; connects at the first use. Raises DataError when it does not answer."""
        options = self._settings.iceberg
        warehouse = urlparse(options["warehouse"])
        if warehouse.scheme == "file":
            Path(warehouse.path).mkdir(parents=True, exist_ok=True)
        try:
            limited = limit_database(options["uri"]) if options["type"] == "sql" else options["uri"]
            catalog = load_catalog(**options | {"uri": limited})
        except OperationalError as error:
            raise DataError("data.catalog_no_answer", uri=hide_password(options["uri"])) from error
        if self._claim is not None:
            _fence(catalog, self._claim)
        return catalog

    def check(self) -> None:
        """Raises DataError when the catalog does not answer."""
        self.catalog.list_namespaces()

    def exists(self, name: str) -> bool:
        """Return whether a table exists."""
        return self.catalog.table_exists(name)

    def table_names(self, namespace: str) -> list[str]:
        """Return the tables of a namespace, in order; none when there is no such namespace."""
        if not self.catalog.namespace_exists(namespace):
            return []
        return sorted(".".join(identifier) for identifier in self.catalog.list_tables(namespace))

    def load(self, name: str) -> Table:
        """Return pyiceberg's table. Raises SnapshotNotFound when it does not exist."""
        try:
            return self.catalog.load_table(name)
        except NoSuchTableError as error:
            raise SnapshotNotFound("data.table_not_found", table=name) from error

    def load_or_create(self, name: str, schema: pa.Schema) -> Table:
        """Return pyiceberg's table, created with ``schema`` when it does not exist."""
        namespace = name.rpartition(".")[0]
        if not namespace:
            raise DataError("data.no_namespace", table=name)
        with suppress(SnapshotNotFound):
            return self.load(name)
        # Two processes may do this at once; the process that loses the race loads the winner's table. A SQL catalog
        # checks that the namespace does not exist, and then the database refuses the second one.
        with suppress(NamespaceAlreadyExistsError, IntegrityError):
            self.catalog.create_namespace(namespace)
        try:
            return self.catalog.create_table(name, schema=schema)
        except TableAlreadyExistsError:
            return self.load(name)

    def drop(self, name: str) -> None:
        """Delete a table with its files, if it exists."""
        if not self.exists(name):
            return
        location = urlparse(self.load(name).location())
        if location.scheme not in ("", "file"):
            self.catalog.purge_table(name)
            return
        # A purge first reads the manifests of every snapshot: a minute for a log of a few hundred appends.
        self.catalog.drop_table(name)
        if Path(location.path).exists():
            shutil.rmtree(location.path)


def ancestors(table: Table) -> Iterator[Snapshot]:
    """Yield the current snapshot and those that it was made from, newest first: without what was rolled back."""
    by_id = {snapshot.snapshot_id: snapshot for snapshot in table.snapshots()}
    snapshot = table.current_snapshot()
    while snapshot is not None:
        yield snapshot
        snapshot = by_id.get(snapshot.parent_snapshot_id or 0)


def _check_or_roll_back(claim: Claim, connection: Connection) -> None:
    try:
        claim.check(connection)
    except Exception:
        # SQLAlchemy takes the transaction for ended, and would return the connection to its pool with the locks.
        connection.connection.rollback()
        raise


def _fence(catalog: Catalog, claim: Claim) -> None:
    """Have every commit check the claim: a SQL catalog in the commit's own transaction, another one just before it."""
    if isinstance(catalog, SqlCatalog):
        event.listen(catalog.engine, "commit", partial(_check_or_roll_back, claim))
        return
    commit = catalog.commit_table

    def check_and_commit(*args: Any, **options: Any) -> CommitTableResponse:
        claim.check_now()
        return commit(*args, **options)

    catalog.commit_table = check_and_commit  # type: ignore[method-assign]
