"""What the monitor keeps on disk: its state after each closed window, and the reference it compares with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from pyarrow import fs
from pydantic import Field, ValidationError

from cluster.errors import DataError
from cluster.files import atomic_write
from cluster.values import Stored, stored_name
from monitoring.analysis.analysis_scheduler import SchedulerState
from monitoring.detection.alarm_actions import ActionRecord, AlarmEntry
from monitoring.detection.detector import DetectorState, WindowResult
from monitoring.drift_policy import DriftPolicy
from monitoring.export.cost import UsageTotals

STATE = "state.json"
UNREADABLE = "state.json.unreadable"


class MonitorState(Stored, stored_as="monitor state"):
    """Everything a monitor needs to continue. Serialization aliases are the names on disk, which do not change."""

    model: str
    version: str = ""
    policy: DriftPolicy | None = None
    detector: DetectorState = DetectorState()
    closed: float | None = None
    """Start of the newest closed window."""
    windows: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Open windows, as LiveWindows.to_text returns them."""
    results: tuple[WindowResult, ...] = ()
    journal: tuple[AlarmEntry, ...] = ()
    actions: Annotated[tuple[ActionRecord, ...], stored_name("actions", "acted")] = ()
    scheduler: Annotated[SchedulerState, stored_name("scheduler", "look")] = SchedulerState()
    usage: Annotated[UsageTotals, stored_name("usage", "used")] = UsageTotals()
    tags: dict[str, str] = Field(default_factory=dict)
    counters: dict[str, int] = Field(default_factory=dict)


class MonitorStore:
    """A monitor's files. Each is replaced in one step: a reader sees the old or the new one, never a part."""

    def __init__(self, path: Path) -> None:
        """Use the folder ``path``, which the first write creates."""
        self.path = path

    def save(self, state: MonitorState) -> None:
        """Write the state."""
        self._write(STATE, state.model_dump_json(by_alias=True).encode())

    def load(self) -> MonitorState | None:
        """Read the state; None when there is none.

        Raises:
            DataError: The file is damaged, or a newer version wrote it.
        """
        path = self.path / STATE
        try:
            return MonitorState.from_stored(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise DataError("data.damaged_monitor_state", path=str(path), reason=error.errors()[0]["msg"]) from error

    def set_aside(self) -> None:
        """Rename an unreadable state, which keeps it for inspection."""
        os.replace(self.path / STATE, self.path / UNREADABLE)

    def save_reference(self, version: str, reference: bytes) -> None:
        """Write a version's reference profile."""
        self._write(_reference_name(version), reference)

    def load_reference(self, version: str) -> bytes:
        """Read a version's reference profile.

        Raises:
            DataError: There is none.
        """
        path = self.path / _reference_name(version)
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise DataError("data.reference_missing", path=str(path)) from error

    def delete_other_references(self, version: str) -> None:
        """Delete the reference profiles of all other versions."""
        for path in self.path.glob("reference-*.json"):
            if path.name != _reference_name(version):
                path.unlink()

    def _write(self, name: str, data: bytes) -> None:
        atomic_write(fs.LocalFileSystem(), str(self.path), name, (data,))


def _reference_name(version: str) -> str:
    return f"reference-{quote(version, safe='')}.json"
