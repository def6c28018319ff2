"""Personal data: values are replaced by keyed hashes, or dropped. Pure but for reading the key.

A token is ``~<key id>~<hash>``: BLAKE2b (RFC 7693) keyed with the project's secret, 128 bits, in hexadecimal. Equal
values have equal tokens, so keys still match and models still learn from categories; without the key, a value can
neither be recovered nor guessed and verified. A token of the same key maps to itself, so stored values can be queried.

The key is stored in its own file, ``RAYLOOP_PERSONAL_KEY_FILE``, the same on all machines, outside the folders in
which rayloop stores data. Only its path is passed around: no job, table, log or model version contains the key.
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
    """A secret key, and the tokens that it gives.

    Args:
        key: The secret. BLAKE2b takes at most 64 bytes; longer keys are hashed first, as HMAC does (RFC 2104).
    """

    def __init__(self, key: bytes) -> None:
        self._key = hashlib.blake2b(key).digest() if len(key) > hashlib.blake2b.MAX_KEY_SIZE else key
        self.key_id = hashlib.blake2b(self._key, digest_size=4, person=b"rayloop key id").hexdigest()
        self._token_pattern = re.compile(f"~{self.key_id}~[0-9a-f]{{{2 * _HASH_BYTES}}}")

    def token(self, value: str) -> str:
        """Return the token of ``value``; a token of this key maps to itself."""
        if self._token_pattern.fullmatch(value):
            return value
        digest = hashlib.blake2b(value.encode(), digest_size=_HASH_BYTES, key=self._key).hexdigest()
        return f"~{self.key_id}~{digest}"

    def tokenize_series(self, values: pl.Series) -> pl.Series:
        """Replace the values of a text column with their tokens; null stays null."""
        distinct = values.drop_nulls().unique()
        tokens = pl.Series([self.token(value) for value in distinct], dtype=pl.String)
        return values.replace_strict(distinct, tokens, default=None, return_dtype=pl.String)

    def tokenize_array(self, values: pa.Array | pa.ChunkedArray) -> pa.Array:
        """``tokenize_series`` for an Arrow column with the few rows of a request."""
        return pa.array([None if value is None else self.token(value) for value in values.to_pylist()], pa.string())


def load_pseudonym_key(settings: Settings) -> PseudonymKey:
    """Load the key that ``RAYLOOP_PERSONAL_KEY_FILE`` names.

    Raises:
        SettingsError: No key is configured, it cannot be read, it is too short, or it is stored next to the data.
    """
    if not settings.personal_key_file:
        raise SettingsError("settings.personal_key_missing", variable=_VARIABLE)
    path = Path(settings.personal_key_file).absolute()
    for folder in _data_folders(settings):
        if path.is_relative_to(folder):
            raise SettingsError(
                "settings.personal_key_beside_data", variable=_VARIABLE, path=str(path), folder=str(folder)
            )
    return _load(path)


def needs_key(columns: Iterable[Column]) -> bool:
    """Whether any of the columns is hashed."""
    return any(column.personal == "hash" for column in columns)


def stored_columns(columns: Iterable[Column]) -> tuple[Column, ...]:
    """Return the columns that are not dropped as personal data."""
    return tuple(column for column in columns if column.personal != "drop")


def protect_rows(columns: Iterable[Column], rows: pl.DataFrame, key: PseudonymKey | None) -> pl.DataFrame:
    """Drop and tokenize personal columns.

    Args:
        columns: Declarations that say which columns are personal.
        rows: Rows with any columns; undeclared ones stay as they are.
        key: Required when a present column is hashed.

    Raises:
        SettingsError: A column must be hashed, and ``key`` is None.
    """
    rules = {column.name: column.personal for column in columns if column.personal and column.name in rows.columns}
    remaining = rows.drop([name for name, rule in rules.items() if rule == "drop"])
    hashed = [name for name, rule in rules.items() if rule == "hash"]
    return remaining.with_columns(_require(key).tokenize_series(remaining[name]).alias(name) for name in hashed)


@dataclass(frozen=True)
class Pseudonymizer:
    """Replaces personal values in requests with tokens. When pickled, it contains the path of the key, not the key."""

    columns: tuple[Column, ...]
    settings: Settings

    @classmethod
    def for_columns(cls, columns: Iterable[Column], settings: Settings) -> Pseudonymizer:
        """Pseudonymize those of ``columns`` that are hashed.

        Raises:
            SettingsError: A column is hashed, and there is no usable key.
        """
        personal = tuple(column for column in columns if column.personal == "hash")
        if personal:
            load_pseudonym_key(settings)
        return cls(personal, settings)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Return ``rows`` with tokens in the hashed columns."""
        for column in self.columns:
            tokens = load_pseudonym_key(self.settings).tokenize_array(rows.column(column.name))
            rows = rows.set_column(rows.column_names.index(column.name), column.name, tokens)
        return rows


def _require(key: PseudonymKey | None) -> PseudonymKey:
    if key is None:
        raise SettingsError("settings.personal_key_missing", variable=_VARIABLE)
    return key


def _data_folders(settings: Settings) -> list[Path]:
    warehouse = urlparse(settings.iceberg["warehouse"])
    return [settings.home.absolute()] + ([Path(warehouse.path)] if warehouse.scheme == "file" else [])


@lru_cache
def _load(path: Path) -> PseudonymKey:
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise SettingsError(
            "settings.personal_key_unreadable", variable=_VARIABLE, path=str(path), reason=error.strerror
        ) from error
    if len(key) < MIN_KEY_BYTES:
        raise SettingsError(
            "settings.personal_key_too_short", variable=_VARIABLE, path=str(path), size=len(key), minimum=MIN_KEY_BYTES
        )
    return PseudonymKey(key)
