"""The command line, as a user types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cluster.settings import Settings

LIMIT_S = 900


def rayloop(settings: Settings, folder: Path, *words: str) -> str:
    """Run the command in the project's folder; returns its output."""
    process = subprocess.run(
        [sys.executable, "-m", "rayloop", *words], env={**os.environ, **settings.environment()}, capture_output=True,
        text=True, cwd=folder, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout[-6000:] + process.stderr[-2000:]
    return process.stdout
