"""Storage of a search's trials, a file each, from which a search resumes after its driver was killed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pyarrow import fs

from cluster.errors import RayloopError
from cluster.files import atomic_write, open_filesystem
from trainers.tuning.trial import Trial

_SUFFIX = ".json"


class TrialStore:
    """Trials of a search.

    Args:
        folder: A path, or a URI that pyarrow.fs supports; empty keeps trials in memory only.
    """

    def __init__(self, folder: str = "") -> None:
        location: tuple[Any, str] = open_filesystem(folder) if folder else (None, "")
        self._fs, self._folder = location
        self._trials = {trial.number: trial for trial in self._read()}

    @property
    def has_trials(self) -> bool:
        """Whether a trial has started."""
        return bool(self._trials)

    def ended_trials(self) -> list[Trial]:
        """Trials that have ended, by number."""
        return [trial for trial in self._sort_trials() if trial.status != "running"]

    def interrupted_trials(self) -> list[Trial]:
        """Trials that started and have not ended, by number."""
        return [trial for trial in self._sort_trials() if trial.status == "running"]

    def put(self, trial: Trial) -> None:
        """Store the current state of a trial.

        Raises:
            RayloopError: It cannot be written.
        """
        self._trials[trial.number] = trial
        if self._fs is None:
            return
        try:
            atomic_write(self._fs, self._folder, f"{trial.number:06d}{_SUFFIX}", [trial.model_dump_json().encode()])
        except (OSError, pa.ArrowException) as error:
            raise RayloopError(
                "rayloop.trial_not_written", trial=trial.number, folder=self._folder, reason=str(error)
            ) from error

    def _sort_trials(self) -> list[Trial]:
        return [self._trials[number] for number in sorted(self._trials)]

    def _read(self) -> Iterator[Trial]:
        if self._fs is not None:
            for info in self._fs.get_file_info(fs.FileSelector(self._folder, allow_not_found=True)):
                if info.path.endswith(_SUFFIX):
                    with self._fs.open_input_stream(info.path) as file:
                        yield Trial.from_stored(file.read())
