"""Scores of a Python model outside of serving: a Ray actor in the model's own environment loads it, and no job does."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from cluster.errors import DataError, RayloopError
from features.encoder import Arrays, Encoder
from features.python_models import model_batch
from features.python_models.bundle import PythonRecord, is_python, read_files
from features.python_models.host import PythonHost
from trainers.scoring import onnx_scorer

CALL_ROWS = 4096
"""Rows of one call."""
LOAD_S, CALL_S = 600.0, 600.0
"""Time limits: for an environment and the model in it; for a call."""


class PythonWorker:
    """The actor: has the files of one bundle."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._host: PythonHost | None = None

    def load(self, files: Mapping[str, bytes]) -> None:
        """Load the model of a bundle, which may be on another machine. Raises DataError."""
        bundle = Path(self._folder.name)
        for name, content in files.items():
            (bundle / name).parent.mkdir(parents=True, exist_ok=True)
            (bundle / name).write_bytes(content)
        self._host = PythonHost(bundle)

    def predict(self, rows: bytes) -> np.ndarray:
        """Score a batch. Raises DataError."""
        assert self._host is not None
        return self._host.predict(rows)


class PythonScorer:
    """A fitted model (trainers.fitted_model.FittedModel): the Python model of a bundle, in an actor.

    Args:
        bundle: The bundle's folder.
        encoder: Encodes rows for ``score``. It knows every text of the rows, which are decoded for the model.

    Raises:
        DataError: The model's environment cannot be made, or the model does not load.
    """

    def __init__(self, bundle: Path, encoder: Encoder) -> None:
        self.record = PythonRecord.load(bundle)
        self._encoder = encoder
        # Without an environment of its own it has the job's; Ray merges both.
        runtime = self.record.runtime
        options: dict[str, Any] = {"runtime_env": runtime.environment} if runtime.environment else {}
        actor: Any = ray.remote(num_cpus=runtime.cpus, num_gpus=runtime.gpus, **options)(PythonWorker)
        self._actor = actor.remote()
        self._call(self._actor.load.remote(read_files(bundle)), LOAD_S)

    def score(self, arrays: Arrays) -> np.ndarray:
        """Scores of encoded rows. Raises DataError when the model fails, or returns no scores."""
        return self._score(
            len(arrays["numbers"]),
            lambda part: model_batch.decoded_batch(
                self._encoder, {name: values[part] for name, values in arrays.items()}
            ),
        )

    def score_perturbed(self, arrays: Arrays) -> np.ndarray:
        """As ``score``, of rows that no source has, such as ones with missing values; NaN if the model refuses them."""
        try:
            return self.score(arrays)
        except DataError as error:
            if error.code not in ("data.python_predict", "data.python_scores"):
                raise
            return np.full(self._shape(len(arrays["numbers"])), np.nan, np.float32)

    def score_table(self, frame: pa.Table) -> np.ndarray:
        """Scores of a feature frame, whose texts need not be known to the encoder. Raises DataError."""
        return self._score(
            frame.num_rows, lambda part: model_batch.frame_batch(self._encoder, frame[part.start : part.stop])
        )

    def _score(self, rows: int, batch: Callable[[slice], pa.RecordBatch]) -> np.ndarray:
        parts = [slice(at, min(at + CALL_ROWS, rows)) for at in range(0, rows, CALL_ROWS)]
        calls = (self._actor.predict.remote(model_batch.to_ipc_batch(batch(part))) for part in parts)
        scores = [np.asarray(self._call(call, CALL_S)) for call in calls]
        return np.concatenate(scores) if scores else np.empty(self._shape(0), np.float32)

    def _shape(self, rows: int) -> tuple[int, ...]:
        return (rows, self.record.task.outputs) if self.record.task.wide else (rows,)

    def _call(self, call: Any, limit_s: float) -> Any:
        try:
            return ray.get(call, timeout=limit_s)
        except RayTaskError as error:
            if isinstance(error.cause, RayloopError):
                raise error.cause from error
            raise
        except GetTimeoutError as error:
            raise DataError("data.python_late", name=self.record.class_name, limit_s=limit_s) from error
        # The environment could not be made, or the process died.
        except RayError as error:
            reason = str(error).strip().splitlines()[0]
            raise DataError("data.python_process", name=self.record.class_name, reason=reason) from error


def score_bundle(bundle: Path, frame: pa.Table) -> np.ndarray:
    """Scores of a feature frame by the model of a bundle, of whatever kind. Raises DataError."""
    if not is_python(bundle):
        return onnx_scorer.score_table(bundle, frame)
    return PythonScorer(bundle, model_batch.raw_encoder(PythonRecord.load(bundle).columns)).score_table(frame)
