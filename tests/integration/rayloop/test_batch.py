"""A table goes in and comes out whole with scores, from Parquet and from the catalog, or nothing comes out."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import DataError, RayloopError
from cluster.settings import Settings
from cluster.storage.scan import ScanPart, ScanPlan, plan_scan
from cluster.storage.tables import Tables
from cluster.values import ModelVersion, Snapshot
from features.definitions import Column, Entity, FeatureSet, FeatureView, Latest
from features.manifest import MODEL_FILE, Manifest
from features.offline.point_in_time import join
from features.offline.training_frame import OfflineFeatureReader
from features.sources.pseudonyms import Pseudonymizer
from rayloop.console import ProgressConsole
from rayloop.context import ProjectContext
from rayloop.project import Location
from rayloop.stages import batch_predict
from tests.factories.errors import raises
from tests.factories.rayloop.digits import project
from tests.factories.trainers.frames import COLUMNS, frame
from tests.factories.trainers.training import trained
from trainers.export.onnx_export import export
from trainers.scoring.batch_task import BatchJob
from trainers.scoring.onnx_scorer import score_table

REQUESTS = frame(rows=900, seed=3).drop(["label", "split"])


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    folder, result = tmp_path_factory.mktemp("bundle"), trained()
    export(result, folder, frame())
    features = FeatureSet(name="all", request=COLUMNS)
    Manifest(
        model="toy",
        task=result.task,
        features=features,
        feature_hash=features.content_hash,
        encoder=result.encoder,
        snapshot=Snapshot(table="t", id=1, rows=1),
        code_version="x",
    ).save(folder)
    return ModelVersion(model="toy", version="1", run_id="", bundle_uri=str(folder))


def _workspace(settings: Settings) -> ProjectContext:
    return ProjectContext(project, Location(Path(), "digits"), settings, ProgressConsole())


def _expected(version: ModelVersion, rows: pa.Table) -> np.ndarray:
    return score_table(Path(version.bundle_uri), rows)


def test_output_folder_appears_at_the_end_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"

    def half() -> None:
        with batch_predict.output_folder(out) as folder:
            (folder / "half").write_text("written")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert not list(out.parent.iterdir())
    out.mkdir()
    with batch_predict.output_folder(out) as folder:
        (folder / "whole").write_text("written")
        assert not list(out.iterdir())
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["whole"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_batch_predict_to_an_existing_path_is_refused(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
        (out / "mine").write_text("mine")
    else:
        out.write_text("mine")
    with raises(DataError, "data.folder_not_empty"), batch_predict.output_folder(out):
        raise AssertionError("the body must not run")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_output_folder_keeps_only_reported_files_and_requires_all(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("")
    batch_predict.keep_only(tmp_path, {"a"})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with raises(DataError, "data.folder_not_shared"):
        batch_predict.keep_only(tmp_path, {"a", "c"})


@pytest.mark.parametrize(
    ("change", "keep", "code", "fields"),
    [
        (lambda t: t.drop(["color"]), (), "data.missing_columns", {"columns": ["color"]}),
        (lambda t: t, ("nothing",), "data.missing_columns", {"columns": ["nothing"]}),
        (lambda t: t.append_column("score", t["plain"]), (), "data.column_conflict", {"column": "score"}),
        (lambda t: t.append_column("score", t["plain"]), ("id", "score"), "data.column_conflict", {"column": "score"}),
    ],
)
def test_batch_predict_of_an_unsuitable_table_names_the_column(
    change: object, keep: Sequence[str], code: str, fields: dict[str, object], version: ModelVersion, tmp_path: Path
) -> None:
    pq.write_table(change(REQUESTS), tmp_path / "in.parquet")  # type: ignore[operator]
    rows = plan_scan(str(tmp_path / "in.parquet"), Tables(Settings(home=tmp_path)), cpus=1)
    with raises(DataError, code, **fields):
        batch_predict.columns_to_write(rows, Manifest.load(Path(version.bundle_uri)), keep)


@pytest.mark.cluster
def test_batch_predict_of_parquet_keeps_row_order(cluster: Settings, version: ModelVersion, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for at in range(0, 900, 300):
        pq.write_table(REQUESTS.slice(at, 300), source / f"{at:04d}.parquet", row_group_size=100)
    prediction = batch_predict.predict(_workspace(cluster), version, str(source), str(tmp_path / "out"))
    scored = pq.read_table(tmp_path / "out")
    assert scored.drop(["score"]).equals(REQUESTS)
    assert np.allclose(scored["score"], _expected(version, REQUESTS), atol=1e-6)
    assert prediction.rows == 900
    assert prediction.rows_per_second == pytest.approx(900 / prediction.seconds)
    assert "900 rows" in str(prediction)
    with raises(DataError, "data.folder_not_empty"):
        batch_predict.predict(_workspace(cluster), version, str(source), str(tmp_path / "out"))


@pytest.mark.cluster
def test_batch_predict_of_a_catalog_snapshot_scores_it(
    cluster: Settings, version: ModelVersion, tmp_path: Path
) -> None:
    context = _workspace(cluster)
    requests = REQUESTS.set_column(4, "pixels", REQUESTS["pixels"].cast(pa.list_(pa.float32())))
    first = context.tables.append("toy.requests", requests.slice(0, 500))
    context.tables.append("toy.requests", requests.slice(500))
    batch_predict.predict(context, version, "toy.requests", str(tmp_path / "all"), keep=("id",))
    scored = pq.read_table(tmp_path / "all").sort_by("id")
    assert scored.column_names == ["id", "score"]
    assert np.allclose(scored["score"], _expected(version, requests), atol=1e-6)
    batch_predict.predict(context, version, f"toy.requests@{first.id}", str(tmp_path / "older"))
    assert sorted(pq.read_table(tmp_path / "older")["id"].to_pylist()) == list(range(500))


@pytest.mark.cluster
def test_batch_predict_of_a_damaged_file_leaves_nothing(
    cluster: Settings, version: ModelVersion, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    pq.write_table(REQUESTS, source / "good.parquet", row_group_size=100)
    pq.write_table(REQUESTS, source / "torn.parquet", row_group_size=100, compression="none")
    content = bytearray((source / "torn.parquet").read_bytes())
    content[8 : len(content) // 2] = b"\xff" * (len(content) // 2 - 8)
    (source / "torn.parquet").write_bytes(content)
    with raises(DataError, "data.unreadable_file"):
        batch_predict.predict(_workspace(cluster), version, str(source), str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@dataclass(frozen=True)
class KilledOnce:
    """A part whose reader is killed in the middle, the first time; always, where ``mark`` cannot be made."""

    part: ScanPart
    mark: str

    @property
    def rows(self) -> int:
        return self.part.rows

    def read(self, columns: Sequence[str], coded: Sequence[str] = ()) -> Iterator[pa.Table]:
        for table in self.part.read(columns, coded):
            yield table.slice(0, 10)
            if not os.path.exists(self.mark):
                with suppress(NotADirectoryError):
                    Path(self.mark).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield table.slice(10)


def _fragile(cluster: Settings, version: ModelVersion, folder: Path, mark: str) -> tuple[ScanPlan, BatchJob]:
    """A job of one part, whose reader is killed while there is no file ``mark``; it writes into ``folder``."""
    source = folder.parent / "in.parquet"
    pq.write_table(REQUESTS, source)
    whole = plan_scan(str(source), Tables(cluster), cpus=1)
    rows = ScanPlan(whole.name, whole.schema, [KilledOnce(part, mark) for part in whole.parts])
    manifest, model = Manifest.load(Path(version.bundle_uri)), Path(version.bundle_uri) / MODEL_FILE
    shield = Pseudonymizer.for_columns(manifest.features.request, cluster)
    requests = OfflineFeatureReader(manifest.features, {}, cluster)
    head = (manifest.task, manifest.encoder, model.read_bytes(), shield, requests)
    return rows, BatchJob(*head, rows.schema, tuple(rows.schema.names), str(folder), tuple(rows.parts))


@pytest.mark.cluster
def test_batch_predict_with_a_part_that_kills_workers_fails_with_one_line(
    cluster: Settings, version: ModelVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_predict, "RETRIES", 1)
    (folder := tmp_path / "out").mkdir()
    rows, job = _fragile(cluster, version, folder, os.devnull + "/never")
    with raises(RayloopError, "rayloop.batch_task_failed"):
        batch_predict.run_tasks(_workspace(cluster), job, rows)


@pytest.mark.cluster
def test_batch_predict_with_a_killed_worker_has_each_row_once(
    cluster: Settings, version: ModelVersion, tmp_path: Path
) -> None:
    with batch_predict.output_folder(tmp_path / "out") as folder:
        rows, job = _fragile(cluster, version, folder, str(tmp_path / "killed"))
        receipts = batch_predict.run_tasks(_workspace(cluster), job, rows)
        assert len(list(folder.iterdir())) == 2
        batch_predict.keep_only(folder, {receipt.file for receipt in receipts})
    assert (tmp_path / "killed").exists()
    assert pq.read_table(tmp_path / "out")["id"].to_pylist() == list(range(900))


@pytest.mark.cluster
def test_batch_predict_looks_features_up_as_of_each_row(cluster: Settings) -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    hours = [start + timedelta(hours=h) for h in range(48)]
    events = pl.DataFrame({"shop": ["a", "b"] * 24, "sold": np.arange(48.0), "at": hours}).with_columns(
        pl.col("at").dt.cast_time_unit("us")
    )
    view = FeatureView(
        name="sales",
        entity=Entity(name="shop", keys=("shop",)),
        source="sales",
        event_time="at",
        known_at="at",
        latest=(Latest(column="sold", name="newest"),),
    )
    features = FeatureSet(name="shops", request=(Column(name="shop", kind="category"),), views=(view,))
    landed = {"sales": Tables(cluster).append("shops.sales", events.to_arrow())}
    rows = pl.DataFrame({"shop": ["a", "b", "c"], "as_of": [hours[5], hours[5], hours[5]], "more": [1, 2, 3]})
    requests = OfflineFeatureReader(features, landed, cluster)
    assert requests.required_columns(rows.columns) == ["shop", "as_of"]
    result = requests(rows.to_arrow())
    assert result["newest"].to_pylist() == join(view, events, rows)["newest"].to_list() == [4.0, 5.0, None]
    with raises(DataError, "data.rows_without_time", column="as_of"):
        requests.required_columns(["shop"])
