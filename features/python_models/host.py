"""A Python model in the process that it has to itself: its class is imported from the bundle, loaded, and called."""

from __future__ import annotations

import importlib
import logging
import sys
import traceback
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import DataError
from features.python_models.bundle import CODE_FOLDER, FILES_FOLDER, FOLDER, PythonRecord
from features.python_models.model_batch import blank_batch, from_ipc_batch, raw_encoder
from features.python_models.score_checks import read_scores

_log = logging.getLogger(__name__)


class PythonHost:
    """Loads a bundle's Python model. Imports change for the whole process, which must serve no other model.

    Args:
        bundle: The bundle's folder.

    Raises:
        DataError: The code cannot be imported, or the model does not load.
    """

    def __init__(self, bundle: Path) -> None:
        self.record = PythonRecord.load(bundle)
        code = bundle / FOLDER / CODE_FOLDER
        try:
            self._model = _load(code, bundle / FOLDER / FILES_FOLDER, self.record)
        # A user's code may fail in any way.
        except Exception as error:
            raise DataError("data.python_load", name=self.record.class_name, reason=describe(error)) from error
        try:
            # The first call may be slow, and no caller should wait for it.
            self._model.predict(blank_batch(raw_encoder(self.record.columns), 1))
        except Exception as error:
            _log.warning("%s cannot score a blank row: %s", self.record.class_name, describe(error))

    def predict(self, rows: bytes) -> np.ndarray:
        """Score rows.

        Args:
            rows: A batch (model_batch.py), as an Arrow IPC stream.

        Raises:
            DataError: The model fails, or returns no scores of its task.
        """
        batch = from_ipc_batch(rows)
        try:
            output = self._model.predict(batch)
        except Exception as error:
            raise DataError("data.python_predict", name=self.record.class_name, reason=describe(error)) from error
        return read_scores(self.record.task, output, batch.num_rows)


def describe(error: Exception) -> str:
    """Describe an error of a user's code in one line, with the line of code at fault."""
    stack = list(traceback.extract_tb(error.__traceback__))
    frames = [frame for frame in stack if f"/{FOLDER}/{CODE_FOLDER}/" in frame.filename] or stack
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300] + place


def _load(code: Path, files: Path, record: PythonRecord) -> Any:
    """An object of the model's class, loaded. The bundle's code comes first, whatever the process has imported."""
    own = {path.stem for path in code.iterdir()}
    for name in [name for name in sys.modules if name.partition(".")[0] in own]:
        del sys.modules[name]
    sys.path.insert(0, str(code))
    # The bundle may be the registry's own folder.
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    module, _, name = record.class_name.partition(":")
    model = attrgetter(name)(importlib.import_module(module))(**record.parameters)
    model.load(files)
    return model
