"""Fingerprints of JSON values: equal content, equal fingerprint, in every version of rayloop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any


def json_fingerprint(body: Any, default: Callable[[Any], Any] | None = None) -> str:
    """Hash a JSON value by its content.

    Stored snapshots, model versions and online states are found again by these hashes: neither the JSON form nor the
    hash function may change.

    Args:
        body: A value that ``json.dumps`` takes. The order of keys does not matter.
        default: Converts values that JSON has no form for, as in ``json.dumps``.

    Returns:
        SHA-256 in hexadecimal.
    """
    return hashlib.sha256(json.dumps(body, sort_keys=True, default=default).encode()).hexdigest()
