"""Faults that change nothing which a test could see, each with its reason (harmless/PACKAGE.toml)."""

from __future__ import annotations

import tomllib
from pathlib import Path


def reasons() -> dict[tuple[str, str, str], str]:
    """Reason by module, line before, line after."""
    return {
        (fault["module"], fault["before"], fault["after"]): fault["reason"]
        for path in sorted(Path(__file__).with_name("harmless").glob("*.toml"))
        for fault in tomllib.loads(path.read_text())["fault"]
    }
