"""A model version in memory: features, encoder and ONNX session. Nothing is unpickled, MLflow is not imported."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf, NoSuchFile

from cluster.errors import DataError, RequestError, StoreUnavailable
from cluster.settings import Settings
from cluster.values import ModelVersion
from deployments.protocol.arrow_columns import find_unsupported_time
from deployments.protocol.request_rows import RequestRows, RowAssembler
from features.encoder import Arrays
from features.manifest import MODEL_FILE, Manifest
from features.online.feature_reader import FeatureReader
from features.online.store import open_store
from features.sources.pseudonyms import Pseudonymizer

_WARM_UP_ROWS = (1, 1, 8)
_AGAIN_S = 2
"""When to ask again once the online store did not answer."""

_log = logging.getLogger(__name__)


class ScoredBatch(NamedTuple):
    """One or several requests of ``sizes`` rows that were scored together.

    ``frame`` is their feature frame, ``scores`` as contracts.Task says, ``latency_ms`` what each of them waited for both.
    What could not be had is None, and ``failure`` says why: RequestError when the request is to blame.
    """

    sizes: tuple[int, ...]
    frame: pa.Table | None
    scores: np.ndarray | None
    latency_ms: float
    failure: Exception | None = None

    @property
    def error(self) -> str | None:
        """The failure in one line."""
        return summarize_error(self.failure) if self.failure is not None else None


class Predictor:
    """A bundle folder, ready to score. Raises DataError when the folder holds no usable bundle."""

    def __init__(self, folder: Path) -> None:
        self.manifest = Manifest.load(folder)
        self._session = _session(folder / MODEL_FILE)
        self._inputs = frozenset(node.name for node in self._session.get_inputs())
        for rows in _WARM_UP_ROWS:
            self._run(self._blank(rows))

    def predict(self, frame: pa.Table) -> np.ndarray:
        """Scores of a feature frame, float32 [n] or [n, classes]. Raises RequestError when one is not finite."""
        scores = self._run(self.manifest.encoder.encode(frame))
        if not np.isfinite(scores).all():
            row = int(np.argmin(np.isfinite(scores.reshape(len(scores), -1)).all(axis=1)))
            raise RequestError(
                f"the model gives no finite score for row {row}", field="inputs", todo="are its values in a sane range?"
            )
        return scores

    def _run(self, arrays: Arrays) -> np.ndarray:
        fed = {name: array for name, array in arrays.items() if name in self._inputs}
        scores = np.asarray(self._session.run(["scores"], fed)[0])
        return scores if self.manifest.task.kind == "multiclass" else scores.reshape(-1)

    def _blank(self, rows: int) -> Arrays:
        encoder = self.manifest.encoder
        return {
            "numbers": np.zeros((rows, encoder.width), np.float32),
            "codes": np.zeros((rows, len(encoder.categories)), np.int64),
        }


class Scorer:
    """A version with its own way to features: request rows in, scores out."""

    def __init__(self, version: ModelVersion, settings: Settings) -> None:
        self.version = version.version
        self._predictor = Predictor(fetch_bundle(version, settings))
        self.manifest = self._predictor.manifest
        self._assembler = RowAssembler(self.manifest.features)
        self._reader = FeatureReader(self.manifest.features, open_store(settings.online_store_uri))
        computed = [one.name for one in self.manifest.features.derived if one.kind == "timestamp"]
        self._computed_times = ("as_of", *computed)
        self._shield = Pseudonymizer.for_columns(self.manifest.features.request, settings)

    def table(self, requests: Sequence[RequestRows]) -> pa.Table:
        """The typed rows of requests, one after another. Raises RequestError when one does not fit its types."""
        return self._assembler.build_table(requests)

    def frame(self, rows: pa.Table, now_us: int) -> pa.Table:
        """The feature frame of request rows. Raises RequestError when it cannot be computed from them."""
        # First of all: neither a feature, nor the log, nor an error may see personal data in clear.
        rows = self._shield(rows)
        try:
            frame = self._reader.read(rows, now_us)
        except (DataError, pl.exceptions.PolarsError, pa.ArrowInvalid, OverflowError, KeyError) as error:
            raise RequestError(f"features cannot be computed: {str(error).splitlines()[0]}", field="inputs") from error
        except StoreUnavailable as error:
            _log.warning("%s", error)
            # Without its address, which is nothing to callers.
            told = "features cannot be looked up: the online store does not answer"
            raise RequestError(told, status=503, headers={"retry-after": str(_AGAIN_S)}) from error
        if frame.column("as_of").null_count:
            row = pc.index(frame.column("as_of").is_null(), True).as_py()
            raise RequestError(f"row {row} gives no time to look features up at", field="inputs")
        for name in self._computed_times:
            # The log could not hold it: neither datetime nor Iceberg's statistics know such a time.
            if (row := find_unsupported_time(frame.column(name).to_numpy())) is not None:
                raise RequestError(f"row {row}: {name} lies outside of the years 1 to 9999", field="inputs")
        return frame

    def predict(self, frame: pa.Table) -> np.ndarray:
        """Scores of a feature frame (Predictor.predict)."""
        return self._predictor.predict(frame)

    def score(self, requests: Sequence[RequestRows], now_us: int) -> list[ScoredBatch]:
        """Score requests in one pass; when that fails, one by one, so that nobody fails for another's rows."""
        return self._parts([rows.size for rows in requests], lambda i, j: self._assembler.build_table(requests[i:j]), now_us)

    def score_table(self, rows: pa.Table, sizes: Sequence[int], now_us: int) -> list[ScoredBatch]:
        """The same for the typed rows of several requests, one after another in a table."""
        ends = [0, *accumulate(sizes)]
        return self._parts(sizes, lambda i, j: rows.slice(ends[i], ends[j] - ends[i]), now_us)

    def _parts(self, sizes: Sequence[int], table: Callable[[int, int], pa.Table], now_us: int) -> list[ScoredBatch]:
        """``table(i, j)`` gives the rows of requests i to j."""
        together = self._score(tuple(sizes), lambda: table(0, len(sizes)), now_us)
        if together.failure is None or len(sizes) == 1:
            return [together]
        if isinstance(together.failure.__cause__, StoreUnavailable):
            # It would not answer each of them either, and make all wait for it again.
            return [together._replace(sizes=(size,)) for size in sizes]
        return [self._score((size,), partial(table, i, i + 1), now_us) for i, size in enumerate(sizes)]

    def _score(self, sizes: tuple[int, ...], table: Callable[[], pa.Table], now_us: int) -> ScoredBatch:
        started = time.perf_counter()
        frame, scores = None, None
        failure: Exception | None = None
        try:
            frame = self.frame(table(), now_us)
            scores = self.predict(frame)
        except RequestError as error:
            failure = error
        except Exception as error:
            _log.exception("v%s failed", self.version)
            failure = error
        return ScoredBatch(sizes, frame, scores, (time.perf_counter() - started) * 1e3, failure)


def summarize_error(error: Exception) -> str:
    """An error in one line; Ray's carry a traceback, whose last line says it."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300]


def fetch_bundle(version: ModelVersion, settings: Settings) -> Path:
    """The version's bundle on this machine, fetched when it lies elsewhere."""
    if version.local_folder is not None:
        return version.local_folder
    # A replica whose bundles are local files never pays MLflow's import.
    from cluster.registry import Registry

    return Registry(settings).fetch(version)


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidGraph, InvalidProtobuf, NoSuchFile) as error:
        raise DataError(f"{path} is no usable ONNX model: {str(error).splitlines()[0]}") from error
