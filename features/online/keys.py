"""Keys of entity states in the online store. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from features.definitions import FeatureView

_LAYOUT = b"3"
"""Increase it when features/online/state_codec.py changes the layout, so that states of different layouts never mix."""

_HASH_BYTES = 16
PREFIX_BYTES = _HASH_BYTES + len(_LAYOUT) + 2
"""Bytes of a view's prefix."""

# LMDB allows keys of at most 511 bytes: these, and the project's prefix.
_MAX_BYTES = 480
_MAX_PROJECT_BYTES = 31


def project_prefix(project: str) -> bytes:
    """Return the prefix of all keys of a project; it is no prefix of a key of another project, whatever their names."""
    name = project.encode()
    prefix = b"%d:%b/" % (len(name), name)
    # No length begins with this byte, and all digests have one length.
    return prefix if len(prefix) <= _MAX_PROJECT_BYTES else b"\xff" + hashlib.sha256(name).digest()[:30]


def state_prefix(view: FeatureView) -> bytes:
    """Return the prefix of the view's keys; it contains the hash of the definition."""
    return view.content_hash[:_HASH_BYTES].encode() + b"." + _LAYOUT + b"/"


def state_key(prefix: bytes, values: tuple[str, ...]) -> bytes:
    """Return the key of one entity's state."""
    key = prefix + (values[0].encode() if len(values) == 1 else _join(values))
    return key if len(key) <= _MAX_BYTES else _shorten(prefix, key)


def state_keys(prefix: bytes, columns: Sequence[Sequence[str]]) -> list[bytes]:
    """Return the key of each entity's state; ``columns`` are the entities' key values, column by column.

    All texts but the last are preceded by their lengths, which distinguishes ("a", "bc") from ("ab", "c").
    """
    if len(columns) == 1:
        keys = [prefix + value.encode() for value in columns[0]]
    else:
        keys = [prefix + _join(values) for values in zip(*columns, strict=True)]
    if max(map(len, keys), default=0) <= _MAX_BYTES:
        return keys
    return [key if len(key) <= _MAX_BYTES else _shorten(prefix, key) for key in keys]


def _join(values: tuple[str, ...]) -> bytes:
    *first, last = [value.encode() for value in values]
    return b"".join([b"%d:%b" % (len(raw), raw) for raw in first]) + last


def _shorten(prefix: bytes, key: bytes) -> bytes:
    # This byte never occurs in UTF-8, so that no text can be mistaken for a hash.
    return prefix + b"\xff" + hashlib.sha256(key).digest()
