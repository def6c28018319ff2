"""The token of a Ray cluster. Anyone who has it can run code on the cluster."""

from __future__ import annotations

import os
from pathlib import Path


def token_file() -> Path:
    """Path of the file in which Ray looks for this user's token."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def read_token() -> str:
    """Return the token that Ray's clients of this user send; empty when there is none."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = token_file()
    return path.read_text().strip() if path.exists() else ""
