"""Proof that a body that was sent is rayloop's: HMAC-SHA256 under a secret that both sides know. Pure."""

from __future__ import annotations

import hashlib
import hmac

SIGNATURE = "x-rayloop-signature"


def signature(secret: str, body: bytes) -> str:
    """Value of the header SIGNATURE."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
