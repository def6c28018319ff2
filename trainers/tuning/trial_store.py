"""Storage of a search's trials, a file each, from which a search resumes after its driver was killed."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import fs

from cluster.errors import RayloopError
from cluster.files import atomic_write
from trainers.tuning.trial import Trial

_SUFFIX = ".json"


class TrialStore:
    """Trials of a search.

    Args:
        folder: A path, or a URI that pyarrow.fs supports; empty keeps trials in memory only.
    """

    def __init__(self, folder: str = "") -> None:
        self._files = _Files(folder) if folder else None
        self._trials = {trial.number: trial for trial in self._files.read()} if self._files else {}

    @property
    def has_trials(self) -> bool:
        """Whether a trial has started."""
        return bool(self._trials)

    def ended(self) -> list[Trial]:
        """Trials that have ended, by number."""
        return [trial for trial in self._sorted() if trial.status != "running"]

    def interrupted(self) -> list[Trial]:
        """Trials that started and have not ended, by number."""
        return [trial for trial in self._sorted() if trial.status == "running"]

    def put(self, trial: Trial) -> None:
        """Store the current state of a trial.

        Raises:
            RayloopError: It cannot be written.
        """
        self._trials[trial.number] = trial
        if self._files:
            self._files.write(trial)

    def _sorted(self) -> list[Trial]:
        return [self._trials[number] for number in sorted(self._trials)]


class _Files:
    def __init__(self, folder: str) -> None:
        self._fs, self._folder = fs.FileSystem.from_uri(folder)

    def read(self) -> list[Trial]:
        files = self._fs.get_file_info(fs.FileSelector(self._folder, allow_not_found=True))
        return [self._trial(info.path) for info in files if info.path.endswith(_SUFFIX)]

    def write(self, trial: Trial) -> None:
        try:
            atomic_write(self._fs, self._folder, f"{trial.number:06d}{_SUFFIX}", [trial.model_dump_json().encode()])
        except (OSError, pa.ArrowException) as error:
            raise RayloopError(
                "rayloop.trial_not_written", trial=trial.number, folder=self._folder, reason=str(error)
            ) from error

    def _trial(self, path: str) -> Trial:
        with self._fs.open_input_stream(path) as file:
            return Trial.from_stored(file.read())
