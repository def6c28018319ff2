"""What the monitor keeps on disk: its state after each closed window, and the reference it compares with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from pydantic import Field, ValidationError

from cluster.errors import DataError
from cluster.values import Stored
from monitoring.analysis.analysis_scheduler import LookState
from monitoring.detection.action_limits import Acted, Entry
from monitoring.detection.detector import DetectorState, WindowResult
from monitoring.drift_policy import DriftPolicy
from monitoring.export.cost import Used

STATE = "state.json"
UNREADABLE = "state.json.unreadable"


class State(Stored):
    """All that a monitor needs to go on where it was."""

    stored_as: ClassVar[str] = "monitor state"

    model: str
    version: str = ""
    policy: DriftPolicy | None = None
    detector: DetectorState = DetectorState()
    closed: float | None = None
    windows: dict[str, dict[str, str]] = Field(default_factory=dict)
    results: tuple[WindowResult, ...] = ()
    journal: tuple[Entry, ...] = ()
    acted: tuple[Acted, ...] = ()
    look: LookState = LookState()
    used: Used = Used()
    tags: dict[str, str] = Field(default_factory=dict)
    counters: dict[str, int] = Field(default_factory=dict)


class Folder:
    """A monitor's files. Each is replaced in one step, so that a reader finds the old or the new, never a part."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, state: State) -> None:
        self._replace(STATE, state.model_dump_json().encode())

    def load(self) -> State | None:
        """The saved state, or None. Raises DataError when it cannot be read."""
        path = self.path / STATE
        try:
            return State.from_stored(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise DataError(f"{path} is not a monitor's state: {error.errors()[0]['msg']}") from error

    def set_aside(self) -> None:
        """Keep an unreadable state for people to look at, out of the way."""
        os.replace(self.path / STATE, self.path / UNREADABLE)

    def save_reference(self, version: str, reference: bytes) -> None:
        self._replace(_reference_name(version), reference)

    def load_reference(self, version: str) -> bytes:
        """Raises DataError when the reference is gone."""
        path = self.path / _reference_name(version)
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise DataError(f"no reference profile at {path}", "watch the version again") from error

    def forget_references_but(self, version: str) -> None:
        for path in self.path.glob("reference-*.json"):
            if path.name != _reference_name(version):
                path.unlink()

    def _replace(self, name: str, data: bytes) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        part = self.path / f"{name}.part"
        part.write_bytes(data)
        os.replace(part, self.path / name)


def _reference_name(version: str) -> str:
    return f"reference-{quote(version, safe='')}.json"
