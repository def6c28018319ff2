"""Golden values: what users, stores and dashboards depend on, as files under ``tests/unit/golden/data``.

``golden(name, value)`` compares a test's value with ``<name>.json`` there. After an intended change:

    UPDATE_GOLDEN=1 python -m pytest tests/unit/golden
    git diff tests/unit/golden/data

and describe the change for users in the CHANGELOG. The first command rewrites every file that differs; the second shows
what you are about to change for them.

Files under ``stored/<format>`` there are what that format of the code has written; each folder has only the files that
differ from the format before. They are never rewritten: today's readers must read all of them.
``stored(name, written)`` compares a fresh write with the newest file of its name. When a stored format changes, raise
the schema version of its class and ``FORMAT`` here; with UPDATE_GOLDEN the files that differ are then written into a
new folder next to the old ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

DATA = Path(__file__).parents[2] / "unit/golden/data"
FORMAT = 8
"""Of what today's code stores: the folder of new files below ``DATA / "stored"``."""

_UPDATE = bool(os.environ.get("UPDATE_GOLDEN"))


def golden(name: str, value: Any) -> None:
    """Assert that a value of JSON's types is that of the golden file ``<name>.json``; with UPDATE_GOLDEN, write it."""
    path = DATA / f"{name}.json"
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if _UPDATE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    # As JSON has it: tuples are lists, keys are texts.
    assert json.loads(text) == json.loads(path.read_text())


def stored(name: str, written: bytes, read: Callable[[bytes], Any] = json.loads) -> None:
    """Assert that a fresh write reads like the newest file; with UPDATE_GOLDEN, write one of this format."""
    path = DATA / "stored" / str(FORMAT) / name
    if _UPDATE and not path.exists() and not (_files(name) and read(newest(name).read_bytes()) == read(written)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(written)
    assert read(newest(name).read_bytes()) == read(written)


def newest(name: str) -> Path:
    """Return the newest format's file or folder of this name."""
    return _files(name)[-1]


def formats(name: str) -> list[Any]:
    """Every format's file of this name, as parameters of a test."""
    return [pytest.param(path, id=f"format {path.relative_to(DATA).parts[1]}") for path in _files(name)]


def _files(name: str) -> list[Path]:
    folders = sorted((DATA / "stored").iterdir(), key=lambda folder: int(folder.name))
    return [folder / name for folder in folders if (folder / name).exists()]


def columns(schema: pa.Schema) -> dict[str, str]:
    """Columns and their types."""
    return {field.name: str(field.type) for field in schema}


def structure(value: Any) -> Any:
    """A value without its values: names of fields, types, and of arrays the shapes."""
    if isinstance(value, dict):
        return {str(key): structure(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [structure(inner) for inner in value]
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__
