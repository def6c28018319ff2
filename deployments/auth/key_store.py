"""The table of API keys: SQLite on one machine, PostgreSQL beyond. It decides who may call; replicas cache it."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Row, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from cluster.errors import DataError, RayloopError, SettingsError
from cluster.limits import limit_database
from deployments.auth.credentials import ID_BYTES, SECRET_BYTES, ApiKey, Scope, format_key, hash_key

_log = logging.getLogger(__name__)

# Without a limit, a connection whose other end has vanished blocks its thread for a quarter of an hour.
_TIMEOUT_S = 3

_KEYS = sa.Table(
    "rayloop_keys",
    sa.MetaData(),
    sa.Column("id", sa.String(24), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("digest", sa.LargeBinary(32), nullable=False),
    sa.Column("models", sa.Text, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("rate", sa.String(100), nullable=False),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("expires_at", sa.Float(53)),
    sa.Column("revoked_at", sa.Float(53)),
)

# A new key raises the first count, a revocation the second: a reader detects a change without reading all keys.
_COUNTS = sa.select(sa.func.count(), sa.func.count(_KEYS.c.revoked_at)).select_from(_KEYS)


class KeyStore:
    """The API keys behind an SQLAlchemy URI. Each method raises DataError when the store does not answer.

    Raises:
        SettingsError: The URI cannot be used.
    """

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
        """Store a new key.

        Args:
            name: Name of the key's holder, for people.
            models: Models the key may call; ANY_MODEL for every one.
            scopes: Kinds of requests it may send.
            now: Seconds since the epoch.
            rate: Rate limit such as ``100/minute``; empty: the common one.
            expires_at: Seconds since the epoch; None: never.

        Returns:
            The key, and its text, which is stored nowhere.
        """
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
            connection.execute(sa.insert(_KEYS).values(row))
        return key, text

    def revoke(self, id: str, now: float) -> ApiKey:
        """Revoke a key; a key that is revoked already keeps its first time. Raises DataError for an unknown id."""
        with self._writing() as connection:
            unrevoked = sa.update(_KEYS).where(_KEYS.c.id == id, _KEYS.c.revoked_at.is_(None))
            connection.execute(unrevoked.values(revoked_at=now))
        key = self.read().get(id)
        if key is None:
            raise DataError("data.api_key_not_found", id=id)
        return key

    def read(self) -> dict[str, ApiKey]:
        """Read all keys by id, expired and revoked ones too; the same dict as before unless a key is new or revoked.

        A manual edit of a row becomes visible with the next new or revoked key.
        """
        with self._converting_errors(), self._engine.connect() as connection:
            # The first key creates the table.
            if not sa.inspect(connection).has_table(_KEYS.name):
                return {}
            counts = tuple(connection.execute(_COUNTS).one())
            if counts != self._counts:
                rows = connection.execute(sa.select(_KEYS).order_by(_KEYS.c.created_at))
                self._keys = {key.id: key for row in rows if (key := _key(row)) is not None}
                self._counts = counts
        return self._keys

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        if self._url.get_backend_name() == "sqlite" and self._url.database:
            Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
        with self._converting_errors(), self._engine.begin() as connection:
            _KEYS.create(connection, checkfirst=True)
            yield connection

    @contextmanager
    def _converting_errors(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            reason = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
            where = self._url.render_as_string(hide_password=True)
            raise DataError("data.key_store_unavailable", store=where, reason=reason[0]) from error


def _engine(uri: str) -> tuple[URL, sa.Engine]:
    try:
        # No pool: a replica reads every few seconds, and a new connection survives a restart of the store.
        return make_url(uri), sa.create_engine(limit_database(uri, _TIMEOUT_S), poolclass=NullPool)
    except (ArgumentError, NoSuchModuleError) as error:
        raise SettingsError("settings.invalid_key_store", reason=str(error)) from error
    except ModuleNotFoundError as error:
        raise SettingsError("settings.key_store_driver_missing", package=error.name) from error


def _key(row: Row[Any]) -> ApiKey | None:
    """A row's key; None for a corrupt row, which grants nothing and does not affect the others."""
    try:
        decoded = {"models": json.loads(row.models), "scopes": json.loads(row.scopes), "digest": bytes(row.digest)}
        return ApiKey.model_validate(dict(row._mapping) | decoded)
    except (ValueError, RayloopError) as error:
        _log.error("API key %s is unreadable and ignored: %s", row.id, error)
        return None
