"""What a search has done so far, kept so that one whose driver was killed goes on: a file for each trial."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import fs

from cluster.errors import RayloopError
from cluster.files import atomic_write
from trainers.tuning.trial import Trial

_SUFFIX = ".json"


class Journal:
    """Trials in a folder: a path, or a URI that pyarrow.fs knows. Without a folder it lasts as long as the process."""

    def __init__(self, folder: str = "") -> None:
        self._files = _Files(folder) if folder else None
        self._trials = {trial.number: trial for trial in self._files.read()} if self._files else {}

    @property
    def begun(self) -> bool:
        return bool(self._trials)

    def ended(self) -> list[Trial]:
        """By number."""
        return [trial for trial in self._sorted() if trial.status != "running"]

    def interrupted(self) -> list[Trial]:
        """Those that began and did not end, by number."""
        return [trial for trial in self._sorted() if trial.status == "running"]

    def put(self, trial: Trial) -> None:
        """Keep how a trial stands. Raises RayloopError when it cannot be written."""
        self._trials[trial.number] = trial
        if self._files:
            self._files.write(trial)

    def _sorted(self) -> list[Trial]:
        return [self._trials[number] for number in sorted(self._trials)]


class _Files:
    def __init__(self, folder: str) -> None:
        self._fs, self._folder = fs.FileSystem.from_uri(folder)

    def read(self) -> list[Trial]:
        found = self._fs.get_file_info(fs.FileSelector(self._folder, allow_not_found=True))
        return [self._trial(info.path) for info in found if info.path.endswith(_SUFFIX)]

    def write(self, trial: Trial) -> None:
        try:
            atomic_write(self._fs, self._folder, f"{trial.number:06d}{_SUFFIX}", [trial.model_dump_json().encode()])
        except (OSError, pa.ArrowException) as error:
            raise RayloopError(
                f"trial {trial.number} cannot be kept in {self._folder}: {error}", "make room, or set another folder"
            ) from error

    def _trial(self, path: str) -> Trial:
        with self._fs.open_input_stream(path) as file:
            return Trial.from_stored(file.read())
