"""The version of the code that trains a model: commit, and a hash of the project's files."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from rayloop import __version__

COMMIT = "RAYLOOP_COMMIT"
"""Environment variable of a job: the commit that it was submitted from, as its copy of the folder has no history."""
_UNKNOWN = "nogit"


def current_commit(folder: Path) -> str:
    """Return the short hash of the commit that a folder is at; "nogit" when there is none."""
    if commit := os.environ.get(COMMIT):
        return commit
    if shutil.which("git") is None:
        return _UNKNOWN
    git = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True, check=False
    )
    return git.stdout.strip() if git.returncode == 0 else _UNKNOWN


def code_version(folder: Path) -> str:
    """Identify the code of a project: equal code of the same commit and the same rayloop has an equal version.

    Returns:
        The commit, "+", and a hash of the folder's Python files and of rayloop's version.
    """
    digest = hashlib.sha256(__version__.encode())
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        if not any(part.startswith(".") for part in relative.parts):
            digest.update(str(relative).encode() + b"\0" + path.read_bytes())
    return f"{current_commit(folder)}+{digest.hexdigest()[:12]}"
