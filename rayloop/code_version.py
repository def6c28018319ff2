"""Which code made a version: the commit it was submitted from, and a hash of what ran."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

COMMIT = "RAYLOOP_COMMIT"
_UNKNOWN = "nogit"


def current_commit(folder: Path) -> str:
    """The commit a folder is at. A job's copy has no history: it goes by what it was told when it was submitted."""
    if told := os.environ.get(COMMIT):
        return told
    if shutil.which("git") is None:
        return _UNKNOWN
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() if found.returncode == 0 else _UNKNOWN


def code_version(folder: Path) -> str:
    """Commit, and a hash of the folder's Python files and of rayloop's version: two that differ, differ in code."""
    digest = hashlib.sha256(_rayloop().encode())
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        if not any(part.startswith(".") for part in relative.parts):
            digest.update(str(relative).encode() + b"\0" + path.read_bytes())
    return f"{current_commit(folder)}+{digest.hexdigest()[:12]}"


def _rayloop() -> str:
    try:
        return version("rayloop")
    except PackageNotFoundError:
        # It came with the job, and is hashed with the project's files.
        return ""
