"""Personal data: a keyed hash stands for a value, or nothing does. Pure but for reading the key.

A token is ``~<key id>~<hash>``: BLAKE2b (RFC 7693) keyed with the project's secret, 128 bits, in hexadecimal. Equal
values have equal tokens, so that keys still match and categories can still be learnt; without the key nobody can tell
the value, nor test a guess. A token of the same key is left as it is: what was landed can be asked for again.

The key lies in a file of its own, ``RAYLOOP_PERSONAL_KEY_FILE``, the same on all machines, outside the folders where
rayloop stores data. It travels by path alone: neither job, table, log nor model version holds it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlparse

import polars as pl
import pyarrow as pa

from cluster.errors import SettingsError
from cluster.settings import Settings
from features.definitions import Column

MIN_KEY_BYTES = 32
_HASH_BYTES = 16
_VARIABLE = "RAYLOOP_PERSONAL_KEY_FILE"


class PseudonymKey:
    """Tokens under one key."""

    def __init__(self, key: bytes) -> None:
        # BLAKE2b takes 64 bytes of key at most; what is longer is condensed, as HMAC does (RFC 2104).
        self._key = hashlib.blake2b(key).digest() if len(key) > hashlib.blake2b.MAX_KEY_SIZE else key
        self.key_id = hashlib.blake2b(self._key, digest_size=4, person=b"rayloop key id").hexdigest()
        self._mine = re.compile(f"~{self.key_id}~[0-9a-f]{{{2 * _HASH_BYTES}}}")

    def token(self, value: str) -> str:
        """What stands for ``value``; a token of this key stands for itself."""
        if self._mine.fullmatch(value):
            return value
        digest = hashlib.blake2b(value.encode(), digest_size=_HASH_BYTES, key=self._key).hexdigest()
        return f"~{self.key_id}~{digest}"

    def tokenize_series(self, values: pl.Series) -> pl.Series:
        """Tokens of a column of text, null for null."""
        known = values.drop_nulls().unique()
        tokens = pl.Series([self.token(value) for value in known], dtype=pl.String)
        return values.replace_strict(known, tokens, default=None, return_dtype=pl.String)

    def tokenize_array(self, values: pa.Array | pa.ChunkedArray) -> pa.Array:
        """The same for the few rows of a request."""
        return pa.array([None if value is None else self.token(value) for value in values.to_pylist()], pa.string())


def load_pseudonym_key(settings: Settings) -> PseudonymKey:
    """The key of these settings. Raises SettingsError when there is none that can be used."""
    if not settings.personal_key_file:
        raise SettingsError(
            f"columns are declared personal data to be hashed, and {_VARIABLE} names no key",
            "make one, `openssl rand -hex 32 > FILE`, readable on every machine, and set the variable",
        )
    path = Path(settings.personal_key_file).absolute()
    for folder in _data_folders(settings):
        if path.is_relative_to(folder):
            raise SettingsError(
                f"{_VARIABLE}={path} lies in {folder}, beside the data",
                "keep the key where who has the data has not it",
            )
    return _load(path)


def needs_key(columns: Iterable[Column]) -> bool:
    return any(column.personal == "hash" for column in columns)


def stored_columns(columns: Iterable[Column]) -> tuple[Column, ...]:
    """The columns that are not dropped."""
    return tuple(column for column in columns if column.personal != "drop")


def protect_rows(columns: Iterable[Column], rows: pl.DataFrame, names: PseudonymKey | None) -> pl.DataFrame:
    """``rows`` without what is to be dropped, and with tokens for what is to be hashed. Other columns stay."""
    tagged = {column.name: column.personal for column in columns if column.personal}
    kept = rows.drop([name for name, how in tagged.items() if how == "drop" and name in rows.columns])
    hashes = [name for name, how in tagged.items() if how == "hash" and name in rows.columns]
    return kept.with_columns(_keyed(names).tokenize_series(kept.get_column(name)).alias(name) for name in hashes)


@dataclass(frozen=True)
class Pseudonymizer:
    """Puts tokens into the personal columns of requests. It travels with the path of the key, not with the key."""

    columns: tuple[Column, ...]
    settings: Settings

    @classmethod
    def for_columns(cls, columns: Iterable[Column], settings: Settings) -> Pseudonymizer:
        """Raises SettingsError when a column is to be hashed and there is no key to be used."""
        personal = tuple(column for column in columns if column.personal == "hash")
        if personal:
            load_pseudonym_key(settings)
        return cls(personal, settings)

    def __call__(self, rows: pa.Table) -> pa.Table:
        for column in self.columns:
            tokens = load_pseudonym_key(self.settings).tokenize_array(rows.column(column.name))
            rows = rows.set_column(rows.column_names.index(column.name), column.name, tokens)
        return rows


def _keyed(names: PseudonymKey | None) -> PseudonymKey:
    if names is None:
        raise SettingsError("personal data is to be hashed, and no key was given", f"set {_VARIABLE}")
    return names


def _data_folders(settings: Settings) -> list[Path]:
    warehouse = urlparse(settings.iceberg["warehouse"])
    return [settings.home.absolute()] + ([Path(warehouse.path)] if warehouse.scheme == "file" else [])


@lru_cache
def _load(path: Path) -> PseudonymKey:
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise SettingsError(f"{_VARIABLE}={path} cannot be read: {error.strerror}") from error
    if len(key) < MIN_KEY_BYTES:
        raise SettingsError(
            f"{_VARIABLE}={path} holds {len(key)} bytes, {MIN_KEY_BYTES} are needed", "`openssl rand -hex 32` makes 64"
        )
    return PseudonymKey(key)
