"""One task of a batch prediction, on real files and a real model, without a cluster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.settings import Settings
from cluster.storage.scan import plan_parquet_scan
from features.builders import derive
from features.definitions import Column, FeatureSet
from features.encoder import Encoder
from features.manifest import MODEL_FILE
from features.offline.training_frame import OfflineFeatureReader
from features.sources.pseudonyms import Pseudonymizer
from tests.factories.trainers.frames import COLUMNS, TASKS, frame
from tests.factories.trainers.training import trained
from trainers.export.onnx_export import export
from trainers.loop.trainer import FitResult
from trainers.scoring import onnx_scorer
from trainers.scoring.batch_task import STAGES, BatchJob, BatchTaskResult, BatchWorker, dictionary_columns

pytestmark = pytest.mark.long

REQUESTS = frame(rows=1000, seed=3).drop(["label", "split"])


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> tuple[FitResult, Path]:
    result, folder = trained(), tmp_path_factory.mktemp("bundle")
    export(result, folder, frame())
    return result, folder


def _job(result: FitResult, bundle: Path, table: pa.Table, folder: Path, columns: tuple[str, ...] = ()) -> BatchJob:
    """Two files of two row groups each."""
    source = folder / "in"
    source.mkdir()
    for name, rows in (("a", table.slice(0, 600)), ("b", table.slice(600))):
        pq.write_table(rows, source / f"{name}.parquet", row_group_size=350)
    features = FeatureSet(name="all", request=result.encoder.columns)
    requests = OfflineFeatureReader(features, {}, Settings(home=folder))
    rows = plan_parquet_scan(str(source), cpus=1)
    columns = columns or tuple(table.column_names)
    model = (bundle / MODEL_FILE).read_bytes()
    pseudonymizer = Pseudonymizer.for_columns(features.request, Settings(home=folder))
    return BatchJob(
        result.task,
        result.encoder,
        model,
        pseudonymizer,
        requests,
        rows.schema,
        columns,
        str(folder),
        tuple(rows.parts),
    )


def _run(job: BatchJob) -> tuple[list[BatchTaskResult], pa.Table]:
    worker = BatchWorker(job)
    receipts = [worker.run(number) for number in range(len(job.parts))]
    return receipts, pa.concat_tables([pq.read_table(Path(job.folder) / r.file) for r in receipts])


def test_run_writes_file_of_rows_and_scores(binary: tuple[FitResult, Path], tmp_path: Path) -> None:
    result, bundle = binary
    receipts, scored = _run(_job(result, bundle, REQUESTS, tmp_path))
    assert [r.rows for r in receipts] == [600, 400]
    assert scored.drop(["score"]).equals(REQUESTS)
    expected = onnx_scorer.score(onnx_scorer.open_session(bundle / MODEL_FILE), result.encoder.encode(REQUESTS))
    assert np.allclose(scored["score"], expected, atol=1e-6)
    assert all(set(r.seconds) == set(STAGES) and min(r.seconds.values()) >= 0 for r in receipts)
    assert all(r.seconds["model"] > 0 for r in receipts)


def test_run_reads_text_as_dictionary_and_writes_text(binary: tuple[FitResult, Path], tmp_path: Path) -> None:
    at = REQUESTS.column_names.index("pixels")
    plain = REQUESTS.set_column(at, "pixels", REQUESTS["pixels"].cast(pa.list_(pa.float32())))
    job = _job(*binary, plain, tmp_path)
    assert dictionary_columns(job) == ["color"]
    block = next(job.parts[0].read(["color"], dictionary_columns(job)))
    assert pa.types.is_dictionary(block["color"].type)
    _, scored = _run(job)
    assert scored["color"].type == pa.string()
    assert scored["color"].to_pylist() == REQUESTS["color"].to_pylist()
    expected = onnx_scorer.score(onnx_scorer.open_session(binary[1] / MODEL_FILE), binary[0].encoder.encode(REQUESTS))
    assert np.allclose(scored["score"], expected, atol=1e-6)


def test_run_writes_passthrough_columns_only(binary: tuple[FitResult, Path], tmp_path: Path) -> None:
    _, scored = _run(_job(*binary, REQUESTS, tmp_path, columns=("id",)))
    assert scored.column_names == ["id", "score"]
    assert scored["id"].to_pylist() == list(range(1000))


def test_run_multiclass_writes_probabilities_and_class(tmp_path: Path) -> None:
    result = trained("multiclass")
    export(result, tmp_path, frame("multiclass"))
    _, scored = _run(_job(result, tmp_path, REQUESTS, tmp_path))
    probabilities = np.array(scored["scores"].to_pylist())
    assert probabilities.shape == (1000, 3)
    assert np.allclose(probabilities.sum(axis=1), 1)
    classes = TASKS["multiclass"].classes
    assert scored["predicted"].to_pylist() == [classes[i] for i in probabilities.argmax(axis=1)]


def test_run_without_rows_keeps_columns(binary: tuple[FitResult, Path], tmp_path: Path) -> None:
    receipts, scored = _run(_job(*binary, REQUESTS.slice(0, 0), tmp_path))
    assert sum(r.rows for r in receipts) == 0
    assert scored.schema.names == [*REQUESTS.column_names, "score"]


def _encoded(columns: tuple[Column, ...], table: pa.Table, features: FeatureSet, folder: Path) -> dict[str, np.ndarray]:
    return Encoder.fit(columns, REQUESTS).encode(OfflineFeatureReader(features, {}, Settings(home=folder))(table))


def test_encode_with_and_without_cast_is_equal(tmp_path: Path) -> None:
    features = FeatureSet(name="all", request=COLUMNS)
    narrow = REQUESTS.set_column(0, "plain", REQUESTS["plain"].cast(pa.float32()))
    wide = narrow.set_column(0, "plain", narrow["plain"].cast(pa.float64()))
    text = REQUESTS.column_names.index("color")
    coded = wide.set_column(text, "color", wide["color"].dictionary_encode())
    first, *others = (_encoded(COLUMNS, table, features, tmp_path) for table in (wide, narrow, coded))
    for other in others:
        assert all(np.array_equal(first[name], other[name], equal_nan=True) for name in first)


def test_derived_features_cover_all_rows(tmp_path: Path) -> None:
    request = COLUMNS[:2]
    features = FeatureSet(name="sum", request=request, derived=(derive("both", pl.col("plain") + pl.col("heavy")),))
    whole = OfflineFeatureReader(features, {}, Settings(home=tmp_path))(REQUESTS)
    assert np.allclose(whole["both"], REQUESTS["plain"].to_numpy() + REQUESTS["heavy"].to_numpy())
    assert whole.num_rows == REQUESTS.num_rows
