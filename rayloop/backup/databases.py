"""Copies of SQL databases: SQLite by its own backup, PostgreSQL by pg_dump and pg_restore."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from cluster.errors import BackupError

# Options of a SQLAlchemy URI, and the variables by which PostgreSQL's programs know them.
_VARIABLES = {"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY"}


class Database:
    """A database behind a SQLAlchemy URI.

    Raises:
        BackupError: It is neither SQLite nor PostgreSQL.
    """

    def __init__(self, uri: str, variable: str) -> None:
        """``variable`` is the setting that names the database, for errors."""
        # MLflow's server and REST catalogs have their data elsewhere.
        url = make_url(uri) if not uri.startswith("http") else URL.create("http")
        self._url, self._variable = url, variable
        self._kind = url.get_backend_name()
        if self._kind not in ("sqlite", "postgresql"):
            raise BackupError("backup.no_database", variable=variable)

    def is_empty(self) -> bool:
        """Whether it has no tables, or does not exist."""
        if self._kind == "sqlite":
            return not self._file.exists()
        engine = sa.create_engine(self._url)
        try:
            return not sa.inspect(engine).get_table_names()
        finally:
            engine.dispose()

    def dump(self, target: Path) -> None:
        """Write the state of one moment into a file; others may write meanwhile."""
        if self._kind == "postgresql":
            self._run("pg_dump", "--format=custom", f"--file={target}")
            return
        with closing(sqlite3.connect(self._file)) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)

    def restore(self, dump: Path) -> None:
        """Fill the database, which must be empty, from a file that ``dump`` wrote."""
        if self._kind == "postgresql":
            options = ("--no-owner", "--exit-on-error", "--single-transaction")
            self._run("pg_restore", *options, f"--dbname={self._url.database}", str(dump))
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(dump, self._file)

    def exists(self) -> bool:
        """Whether there is anything to copy."""
        return not self.is_empty()

    @property
    def _file(self) -> Path:
        return Path(self._url.database or "")

    def _run(self, program: str, *arguments: str) -> None:
        # Not as arguments, which every user of the machine can read.
        variables = {
            "PGHOST": self._url.host, "PGPORT": str(self._url.port or 5432), "PGUSER": self._url.username,
            "PGPASSWORD": self._url.password, "PGDATABASE": self._url.database,
        }  # fmt: skip
        options = {_VARIABLES[name]: str(value) for name, value in self._url.query.items() if name in _VARIABLES}
        environment = os.environ | {name: value for name, value in variables.items() if value} | options
        if shutil.which(program) is None:
            raise BackupError("backup.program_missing", program=program, variable=self._variable)
        done = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise BackupError("backup.database_failed", program=program, variable=self._variable, reason=reason)
