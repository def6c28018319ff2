"""Under which keys the online store holds an entity's states. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from features.definitions import FeatureView

_LAYOUT = b"3"
"""Raised when features/online/state_codec.py writes another layout: states of several never mix."""

# LMDB takes no key beyond 511 bytes.
_MAX_BYTES = 480


def state_prefix(view: FeatureView) -> bytes:
    """Prefix of the view's keys in the store; it carries the definition's hash."""
    return view.content_hash[:16].encode() + b"." + _LAYOUT + b"/"


def view_state_keys(view: FeatureView, columns: Sequence[Sequence[str]]) -> list[bytes]:
    """The key of each entity's state, from its keys by column."""
    return state_keys(state_prefix(view), columns)


def state_key(prefix: bytes, values: tuple[str, ...]) -> bytes:
    """Key of one entity's state."""
    key = prefix + (values[0].encode() if len(values) == 1 else _run_together(values))
    return key if len(key) <= _MAX_BYTES else _shortened(prefix, key)


def state_keys(prefix: bytes, columns: Sequence[Sequence[str]]) -> list[bytes]:
    """Lengths of all texts but the last keep ("a", "bc") apart from ("ab", "c")."""
    if len(columns) == 1:
        keys = [prefix + value.encode() for value in columns[0]]
    else:
        keys = [prefix + _run_together(values) for values in zip(*columns, strict=True)]
    if max(map(len, keys), default=0) <= _MAX_BYTES:
        return keys
    return [key if len(key) <= _MAX_BYTES else _shortened(prefix, key) for key in keys]


def _run_together(values: tuple[str, ...]) -> bytes:
    *first, last = [value.encode() for value in values]
    return b"".join([b"%d:%b" % (len(raw), raw) for raw in first]) + last


def _shortened(prefix: bytes, key: bytes) -> bytes:
    # No UTF-8 has this byte, so that no text can be mistaken for a hash.
    return prefix + b"\xff" + hashlib.sha256(key).digest()
