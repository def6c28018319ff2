"""What the monitor stores: its state after each closed window, and the reference it compares with."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from pyarrow import fs
from pydantic import Field, ValidationError
from tenacity import (
    Retrying,
    before_sleep_log,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_after_attempt,
    stop_never,
    wait_exponential,
)

from cluster.errors import DataError
from cluster.files import atomic_write, open_filesystem
from cluster.values import Stored, stored_name
from monitoring.analysis.analysis_scheduler import SchedulerState
from monitoring.detection.alarm_actions import ActionRecord, AlarmEntry
from monitoring.detection.detector import DetectorState, WindowResult
from monitoring.drift_policy import DriftPolicy
from monitoring.export.cost import UsageTotals
from monitoring.retraining.decision import RetrainState
from monitoring.retraining.triggers import RetrainPolicy

STATE = "state.json"
UNREADABLE = "state.json.unreadable"
_RETRY_S = 10.0

_log = logging.getLogger(__name__)


class MonitorState(Stored, stored_as="monitor state"):
    """Everything a monitor needs to continue. Serialization aliases are the names on disk, which do not change.

    Version 3 adds the weights of the policy, what an alarm spent, intervals of estimates, and retraining.
    """

    schema_version: int = Field(default=3, ge=1)
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
    retrain_policy: RetrainPolicy = RetrainPolicy()
    retraining: RetrainState = RetrainState()


class MonitorStore:
    """A monitor's files. Each is replaced in one step: a reader sees the old or the new one, never a part.

    A store on another machine may be away when a monitor starts; reading waits until it answers.
    """

    def __init__(self, path: str | Path) -> None:
        """Use the folder ``path``, also a URI that pyarrow.fs supports; the first write creates it."""
        self.path = path
        self._fs, self._folder = open_filesystem(str(path))

    def save(self, state: MonitorState) -> None:
        """Write the state. Raises OSError."""
        self._replace(STATE, state.model_dump_json(by_alias=True).encode())

    def load(self) -> MonitorState | None:
        """Read the state; None when there is none.

        Raises:
            DataError: The file is damaged, or a newer version wrote it.
        """
        try:
            return MonitorState.from_stored(self._read(STATE))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            path = f"{self.path}/{STATE}"
            raise DataError("data.damaged_monitor_state", path=path, reason=error.errors()[0]["msg"]) from error

    def set_aside(self) -> None:
        """Rename an unreadable state, which keeps it for inspection."""
        self._fs.move(f"{self._folder}/{STATE}", f"{self._folder}/{UNREADABLE}")

    def save_reference(self, version: str, reference: bytes) -> None:
        """Write a version's reference profile. Raises OSError."""
        self._replace(_reference_name(version), reference)

    def load_reference(self, version: str) -> bytes:
        """Read a version's reference profile.

        Raises:
            DataError: There is none.
        """
        name = _reference_name(version)
        try:
            return self._read(name)
        except FileNotFoundError as error:
            raise DataError("data.reference_missing", path=f"{self.path}/{name}") from error

    def delete_other_references(self, version: str) -> None:
        """Delete the reference profiles of all other versions."""
        for info in self._fs.get_file_info(fs.FileSelector(self._folder)):
            if re.fullmatch(r"reference-.*\.json", info.base_name) and info.base_name != _reference_name(version):
                self._fs.delete_file(info.path)

    def clear(self) -> None:
        """Delete all files, if there are any."""
        if self._fs.get_file_info(self._folder).type != fs.FileType.NotFound:
            self._fs.delete_dir(self._folder)

    def _read(self, name: str) -> bytes:
        is_local = isinstance(self._fs, fs.LocalFileSystem)
        final = retry_if_not_exception_type(FileNotFoundError) & retry_if_exception_type(OSError)
        for attempt in Retrying(
            retry=final, wait=wait_exponential(max=_RETRY_S), stop=stop_after_attempt(1) if is_local else stop_never,
            reraise=True, before_sleep=before_sleep_log(_log, logging.WARNING),
        ):  # fmt: skip
            with attempt, self._fs.open_input_stream(f"{self._folder}/{name}") as file:
                return bytes(file.read())
        raise AssertionError("the last attempt returns or raises")

    def _replace(self, name: str, data: bytes) -> None:
        atomic_write(self._fs, self._folder, name, [data])


def _reference_name(version: str) -> str:
    return f"reference-{quote(version, safe='')}.json"
