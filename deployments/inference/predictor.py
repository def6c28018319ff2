"""A model version in memory: features, encoder and ONNX session. Nothing is unpickled, MLflow is not imported.

Of a Python model, the scores come from its own deployment (python_predictor.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf, NoSuchFile

from cluster.errors import DataError, RayloopError, RequestError, StoreUnavailable
from cluster.settings import Settings
from cluster.values import ModelVersion
from deployments.inference.python_predictor import PythonPredictor, is_about_the_rows
from deployments.protocol.arrow_columns import find_unsupported_time
from deployments.protocol.request_rows import RequestRows, RowAssembler
from features.attributions.explainer_file import Explainer, load_explainer
from features.attributions.explanation import RowExplanation, explain_row
from features.encoder import Arrays
from features.manifest import MODEL_FILE, Manifest
from features.online.feature_reader import FeatureReader
from features.online.layout_upgrade import ServingStates
from features.online.store import open_serving_store
from features.python_models.bundle import PythonRecord
from features.sources.pseudonyms import Pseudonymizer

_WARM_UP_ROWS = (1, 1, 8)
_STORE_RETRY_AFTER_S = 2

_log = logging.getLogger(__name__)


class ScoredBatch(NamedTuple):
    """One or several requests that were scored together."""

    sizes: tuple[int, ...]
    """Number of rows of each."""
    frame: pa.Table | None
    """Their feature frame; None when it could not be computed."""
    scores: np.ndarray | None
    """As ``cluster.values.Task`` describes them; None after a failure."""
    latency_ms: float
    """Time for both; each request waited this long."""
    failure: Exception | None = None
    """A RequestError when the request is at fault."""
    explanations: Sequence[str] | None = None
    """Of each row, as JSON (RowExplanation), where they are to be stored with the prediction."""

    @property
    def error(self) -> str | None:
        """The failure in one line."""
        return summarize_error(self.failure) if self.failure is not None else None


class Predictor:
    """A model bundle, loaded and warmed up.

    Raises:
        DataError: The folder holds no usable bundle.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.manifest = Manifest.load(folder)
        self._session = _session(folder / MODEL_FILE)
        self._inputs = frozenset(node.name for node in self._session.get_inputs())
        for rows in _WARM_UP_ROWS:
            self._run(self._blank(rows))

    async def start(self) -> None:
        """Nothing is left to do."""

    async def score(self, frame: pa.Table) -> np.ndarray:
        """Score a feature frame, as ``predict`` does."""
        return self.predict(frame)

    def close(self) -> None:
        """Nothing is open."""

    def predict(self, frame: pa.Table) -> np.ndarray:
        """Score a feature frame.

        Returns:
            float32 [n], or [n, classes] for multiclass.

        Raises:
            RequestError: A score is not finite.
        """
        scores = self._run(self.manifest.encoder.encode(frame))
        if not np.isfinite(scores).all():
            row = int(np.argmin(np.isfinite(scores.reshape(len(scores), -1)).all(axis=1)))
            raise RequestError("request.score_not_finite", field="inputs", row=row)
        return scores

    @cached_property
    def explainer(self) -> Explainer | None:
        """The bundle's explainer, loaded when it is first needed; None if it has none. Raises DataError."""
        return load_explainer(self._folder, self.manifest.encoder, self.manifest.task, self._run)

    def explain(self, frame: pa.Table, scores: np.ndarray) -> list[RowExplanation]:
        """Explain the scores of a feature frame. The bundle has an explainer."""
        explainer, arrays = self.explainer, self.manifest.encoder.encode(frame)
        assert explainer is not None
        rows = ({name: values[i : i + 1] for name, values in arrays.items()} for i in range(frame.num_rows))
        return [
            explain_row(explainer, self.manifest.task, row, np.atleast_1d(score))
            for row, score in zip(rows, scores, strict=True)
        ]

    def _run(self, arrays: Arrays) -> np.ndarray:
        inputs = {name: array for name, array in arrays.items() if name in self._inputs}
        scores = np.asarray(self._session.run(["scores"], inputs)[0])
        return scores if self.manifest.task.kind == "multiclass" else scores.reshape(-1)

    def _blank(self, rows: int) -> Arrays:
        encoder = self.manifest.encoder
        return {
            "numbers": np.zeros((rows, encoder.width), np.float32),
            "codes": np.zeros((rows, len(encoder.categories)), np.int64),
        }


class Scorer:
    """A model version with its features: request rows in, scores out.

    Args:
        version: The version to load.
        settings: The online store, and the key for personal data.
    """

    def __init__(self, version: ModelVersion, settings: Settings) -> None:
        self.version = version.version
        self._predictor = _open_predictor(version, fetch_bundle(version, settings))
        self.manifest = self._predictor.manifest
        self._assembler = RowAssembler(self.manifest.features)
        features, store = self.manifest.features, open_serving_store(settings.online_store_uri, self.manifest.model)
        self._reader = FeatureReader(features, ServingStates(store, features.views))
        computed = [column.name for column in self.manifest.features.derived if column.kind == "timestamp"]
        self._computed_times = ("as_of", *computed)
        self._pseudonymize = Pseudonymizer.for_columns(self.manifest.features.request, settings)

    def build_table(self, requests: Sequence[RequestRows]) -> pa.Table:
        """Build the typed rows of requests, one after another. Raises RequestError when a value does not fit."""
        return self._assembler.build_table(requests)

    def compute_features(self, rows: pa.Table, now_us: int) -> pa.Table:
        """Compute the feature frame of request rows.

        Raises:
            RequestError: 400 when the rows are at fault, 503 when the online store does not answer.
        """
        # This comes first: no feature, log or error may see personal data in plain text.
        rows = self._pseudonymize(rows)
        try:
            frame = self._reader.read(rows, now_us)
        except (DataError, pl.exceptions.PolarsError, pa.ArrowInvalid, OverflowError, KeyError) as error:
            raise RequestError("request.features_failed", field="inputs", reason=str(error).splitlines()[0]) from error
        except StoreUnavailable as error:
            _log.warning("%s", error)
            # Without the store's address, which callers must not see.
            headers = {"retry-after": str(_STORE_RETRY_AFTER_S)}
            raise RequestError("request.store_unavailable", headers=headers, wait_s=_STORE_RETRY_AFTER_S) from error
        if frame.column("as_of").null_count:
            row = pc.index(frame.column("as_of").is_null(), True).as_py()
            raise RequestError("request.time_missing", field="inputs", row=row)
        for name in self._computed_times:
            # The prediction log could not hold such a time.
            if (row := find_unsupported_time(frame.column(name).to_numpy())) is not None:
                raise RequestError("request.time_out_of_range", field="inputs", time=f"{name} of row {row}")
        return frame

    async def start(self) -> None:
        """Connect to the deployment of a Python model, before the first request."""
        await self._predictor.start()

    def close(self) -> None:
        """Close the connections to it."""
        self._predictor.close()

    @property
    def is_remote(self) -> bool:
        """Whether another process scores, so that calls of it wait."""
        return isinstance(self._predictor, PythonPredictor)

    @property
    def explainer(self) -> Explainer | None:
        """See ``Predictor.explainer``."""
        return self._predictor.explainer

    def explain(self, frame: pa.Table, scores: np.ndarray) -> list[RowExplanation]:
        """Explain the scores of a feature frame (see ``Predictor.explain``). The version has an explainer."""
        assert isinstance(self._predictor, Predictor)
        return self._predictor.explain(frame, scores)

    async def score(self, requests: Sequence[RequestRows], now_us: int) -> list[ScoredBatch]:
        """Score requests in one pass; when that fails, one by one, so that no request fails for another's rows.

        Args:
            requests: Rows of each request.
            now_us: Their time, microseconds since the epoch.

        Returns:
            One entry for all requests, or one for each.
        """
        return await self._score_parts(
            [rows.size for rows in requests], lambda i, j: self._assembler.build_table(requests[i:j]), now_us
        )

    async def score_table(self, rows: pa.Table, sizes: Sequence[int], now_us: int) -> list[ScoredBatch]:
        """Score the typed rows of several requests, one after another in a table, as ``score`` does."""
        ends = [0, *accumulate(sizes)]
        return await self._score_parts(sizes, lambda i, j: rows.slice(ends[i], ends[j] - ends[i]), now_us)

    async def _score_parts(
        self, sizes: Sequence[int], table: Callable[[int, int], pa.Table], now_us: int
    ) -> list[ScoredBatch]:
        """Score requests together, else one by one; ``table(i, j)`` returns the rows of requests i to j."""
        batch = await self._score(tuple(sizes), lambda: table(0, len(sizes)), now_us)
        if batch.failure is None or len(sizes) == 1:
            return [batch]
        if isinstance(batch.failure.__cause__, StoreUnavailable):
            # Retrying each request would also fail, and make all of them wait again.
            return [batch._replace(sizes=(size,)) for size in sizes]
        if batch.frame is not None and not is_about_the_rows(batch.failure):
            ends = [0, *accumulate(sizes)]
            parts = [batch.frame.slice(start, end - start) for start, end in pairwise(ends)]
            return [batch._replace(sizes=(part.num_rows,), frame=part) for part in parts]
        return [await self._score((size,), partial(table, i, i + 1), now_us) for i, size in enumerate(sizes)]

    async def _score(self, sizes: tuple[int, ...], table: Callable[[], pa.Table], now_us: int) -> ScoredBatch:
        started = time.perf_counter()
        frame, scores = None, None
        failure: Exception | None = None
        try:
            frame = self.compute_features(table(), now_us)
            scores = await self._predictor.score(frame)
        except RequestError as error:
            failure = error
        except RayloopError as error:
            # The deployment of a Python model says why; it may be thousands of times.
            _log.warning("%s", error)
            failure = error
        except Exception as error:
            _log.exception("v%s failed", self.version)
            failure = error
        return ScoredBatch(sizes, frame, scores, (time.perf_counter() - started) * 1e3, failure)


def _open_predictor(version: ModelVersion, folder: Path) -> Predictor | PythonPredictor:
    record = PythonRecord.of(version)
    return Predictor(folder) if record is None else PythonPredictor(version, record, Manifest.load(folder))


def summarize_error(error: Exception) -> str:
    """An error in one line; the last line of Ray's errors, which carry a traceback."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300]


def fetch_bundle(version: ModelVersion, settings: Settings) -> Path:
    """Folder of the version's bundle, downloaded unless it is on this machine."""
    if version.local_folder is not None:
        return version.local_folder
    # A replica whose bundles are local files never imports MLflow.
    from cluster.registry import Registry

    return Registry(settings).fetch(version)


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidGraph, InvalidProtobuf, NoSuchFile) as error:
        raise DataError("data.unusable_model", path=str(path), reason=str(error).splitlines()[0]) from error
