"""The table of API keys: SQLite on one machine, PostgreSQL beyond. It owns who may call; replicas hold copies of it."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    func,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.engine import URL, Row, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from cluster.errors import DataError, RayloopError, SettingsError
from deployments.auth.credentials import ID_BYTES, SECRET_BYTES, ApiKey, Scope, format_key, hash_key

_log = logging.getLogger(__name__)

_ANSWER_WITHIN_S = 3
# Without these a connection whose other end has vanished would keep its thread waiting for a quarter of an hour.
_POSTGRESQL = {
    "connect_timeout": _ANSWER_WITHIN_S,
    "options": f"-c statement_timeout={_ANSWER_WITHIN_S * 1000}",
    "tcp_user_timeout": _ANSWER_WITHIN_S * 1000,
}

_KEYS = Table(
    "rayloop_keys",
    MetaData(),
    Column("id", String(24), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("models", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("rate", String(100), nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("expires_at", Float(53)),
    Column("revoked_at", Float(53)),
)

# A key that is made raises the first, one that is revoked the second: a reader sees a change without reading all keys.
_COUNTS = select(func.count(), func.count(_KEYS.c.revoked_at)).select_from(_KEYS)


class KeyStore:
    """The keys behind an SQLAlchemy URI. Each method raises DataError when the store does not answer."""

    def __init__(self, uri: str) -> None:
        self._url, self._engine = _engine(uri)
        self._counts: tuple[int, ...] = ()
        self._keys: dict[str, ApiKey] = {}

    def issue(
        self,
        name: str,
        models: tuple[str, ...],
        scopes: tuple[Scope, ...],
        now: float,
        *,
        rate: str = "",
        expires_at: float | None = None,
    ) -> tuple[ApiKey, str]:
        """Store a new key; returns it with its text, which is nowhere else."""
        id, text = format_key(secrets.token_bytes(ID_BYTES), secrets.token_bytes(SECRET_BYTES))
        key = ApiKey(
            id=id,
            name=name,
            digest=hash_key(text),
            models=models,
            scopes=scopes,
            rate=rate,
            created_at=now,
            expires_at=expires_at,
        )
        row = key.model_dump() | {"models": json.dumps(models), "scopes": json.dumps(scopes)}
        with self._writing() as connection:
            connection.execute(insert(_KEYS).values(row))
        return key, text

    def revoke(self, id: str, now: float) -> ApiKey:
        """Let a key count no longer. Raises DataError when there is none of this id."""
        with self._writing() as connection:
            unrevoked = update(_KEYS).where(_KEYS.c.id == id, _KEYS.c.revoked_at.is_(None))
            connection.execute(unrevoked.values(revoked_at=now))
        found = self.read().get(id)
        if found is None:
            raise DataError(f"there is no API key {id!r}", "see `rayloop keys list`")
        return found

    def read(self) -> dict[str, ApiKey]:
        """All keys by id, those that count no longer too; the same dict as before while none is made or revoked.

        Rows are not edited otherwise. An edit by hand of a key's models or scopes is seen with the next key made.
        """
        with self._answering(), self._engine.connect() as connection:
            # Before the first key is made there is no table.
            if not inspect(connection).has_table(_KEYS.name):
                return {}
            counts = tuple(connection.execute(_COUNTS).one())
            if counts != self._counts:
                rows = connection.execute(select(_KEYS).order_by(_KEYS.c.created_at))
                self._keys = {key.id: key for row in rows if (key := _key(row)) is not None}
                self._counts = counts
        return self._keys

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        if self._url.get_backend_name() == "sqlite" and self._url.database:
            Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
        with self._answering(), self._engine.begin() as connection:
            _KEYS.create(connection, checkfirst=True)
            yield connection

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            reason = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
            where = self._url.render_as_string(hide_password=True)
            raise DataError(
                f"the store of API keys {where} does not answer: {reason[0]}", "check RAYLOOP_ACCESS_STORE"
            ) from error


def _engine(uri: str) -> tuple[URL, Engine]:
    try:
        url = make_url(uri)
        options: dict[str, Any] = _POSTGRESQL if url.get_backend_name() == "postgresql" else {}
        # A connection of its own for each reading: a replica reads every few seconds, and a store that was restarted
        # is found again without further ado.
        return url, create_engine(url, poolclass=NullPool, connect_args=options)
    except (ArgumentError, NoSuchModuleError) as error:
        raise SettingsError(
            f"the store of API keys has an address of no known kind: {error}",
            "RAYLOOP_ACCESS_STORE takes an SQLAlchemy URI such as postgresql+psycopg2://user:password@host/database",
        ) from error
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"the store of API keys needs the Python package {error.name}",
            "install it; postgresql+psycopg2:// needs psycopg2-binary",
        ) from error


def _key(row: Row[Any]) -> ApiKey | None:
    """A row's key. One that somebody has spoilt lets nobody in, and does not keep the others from being read."""
    try:
        decoded = {"models": json.loads(row.models), "scopes": json.loads(row.scopes), "digest": bytes(row.digest)}
        return ApiKey.model_validate(dict(row._mapping) | decoded)
    except (ValueError, RayloopError) as error:
        _log.error("the API key %s cannot be read and does not count: %s", row.id, error)
        return None
