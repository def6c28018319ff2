"""`rayloop label` without a cluster: rows to a file, agreement, and calls that are refused."""

from __future__ import annotations

import os
import pty
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from cluster import connection
from cluster.errors import ClusterUnavailable, DataError, RayloopError, VersionNotFound
from cluster.names import annotations_table, label_candidates_table, labels_table, predictions_table
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.storage.tables import Tables
from deployments.telemetry.prediction_log import prediction_rows
from features.manifest import Manifest
from rayloop.cli.app import app
from rayloop.labeling.annotation_store import store_annotations
from rayloop.stages.log_analysis_task import LABEL_CANDIDATES_SCHEMA
from tests.factories.deployments.bundles import register
from tests.factories.deployments.local_log_writer import local_log_writer
from tests.factories.deployments.predictions import prediction_batch
from tests.factories.deployments.tasks import BINARY, ENCODER, FEATURES
from tests.factories.errors import raises


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_ADDRESS", "RAYLOOP_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAYLOOP_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return Settings(home=tmp_path / "home")


@pytest.fixture
def tables(settings: Settings, tmp_path: Path) -> Tables:
    """A registered model that has answered, with a row in its queue."""
    tables, folder = Tables(settings), tmp_path / "bundle"
    folder.mkdir()
    snapshot = tables.append("trips.frame", pa.table({"id": ["a"]}))
    Manifest(
        model="trips", task=BINARY, features=FEATURES, feature_hash=FEATURES.content_hash, encoder=ENCODER,
        snapshot=snapshot, code_version="",
    ).save(folder)  # fmt: skip
    register(Registry(settings), "trips", folder)
    tables.append(predictions_table("trips"), prediction_rows([prediction_batch("r", rows=2)], "b:1"))
    queued = [{"id": "r/1", "version": "1", "window": datetime(2024, 5, 1, tzinfo=UTC), "worth": 0.25}]
    tables.append(label_candidates_table("trips"), pa.Table.from_pylist(queued, LABEL_CANDIDATES_SCHEMA))
    return tables


def label(*words: str) -> None:
    app(["label", "trips", *words], standalone_mode=False)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((), "rayloop.labeler_missing"),
        (("--by", "  "), "rayloop.labeler_missing"),
        (("--in", "rows.csv"), "rayloop.labeler_missing"),
        (("--in", "rows.csv", "--out", "rows.csv", "--by", "ann"), "rayloop.label_options"),
        (("--out", "rows.csv", "--agreement"), "rayloop.label_options"),
    ],
)
def test_call_without_a_labeler_or_with_two_tasks_is_refused(
    settings: Settings, words: tuple[str, ...], code: str
) -> None:
    with raises(RayloopError, code, model="trips"):
        label(*words)


@pytest.mark.long
def test_rows_are_written_and_their_labels_need_a_cluster(
    tables: Tables, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label("--out", "rows.csv")
    rows = pl.read_csv(tmp_path / "rows.csv", infer_schema=False)
    assert rows.select("id", "label", "score", "feature.distance").rows() == [("r/1", None, "0.5", "1.0")]
    rows.with_columns(label=pl.lit("2")).write_csv("rows.csv")
    with raises(DataError, "data.label_value", line=2):
        label("--in", "rows.csv", "--by", "ann")
    rows.with_columns(label=pl.lit("1")).write_csv("rows.csv")
    with raises(ClusterUnavailable, "cluster.not_running"):
        label("--in", "rows.csv", "--by", "ann")
    assert not tables.exists(annotations_table("trips"))
    with raises(RayloopError, "rayloop.label_no_terminal"):
        label("--by", "ann")
    for labeler in ("ann", "bo"):
        store_annotations(tables, "trips", labeler, pl.DataFrame({"id": ["r/1", "r/0"], "label": [1.0, 0.0]}))
    capsys.readouterr()
    label("--agreement")
    assert (
        capsys.readouterr().out == "trips: 2 rows by 2 labelers, 2 by several: 100.0% agreement, Cohen's kappa 1.000\n"
    )
    with raises(DataError, "data.label_queue_empty"):
        label("--out", "rows.csv", "--by", "ann", "--labelers", "3")


def newest(tables: Tables, name: str, order: str) -> dict[str, float]:
    rows = pl.DataFrame(tables.read(name)).sort(order, maintain_order=True)
    return dict(rows.select("id", "label").iter_rows())


def press(monkeypatch: pytest.MonkeyPatch, keys: str, *words: str) -> None:
    """The command with a terminal, on which keys were pressed."""
    master, slave = pty.openpty()
    with os.fdopen(master, "wb", buffering=0) as keyboard, os.fdopen(slave, "r") as terminal:
        keyboard.write(keys.encode())
        monkeypatch.setattr(sys, "stdin", terminal)
        label(*words)


@pytest.mark.long
def test_labels_by_file_and_by_key_are_kept_and_logged(
    tables: Tables, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "connect", lambda settings: None)
    queued = [
        {"id": f"q/{i}", "version": "1", "window": datetime(2024, 5, 2, tzinfo=UTC), "worth": 0.5 + i} for i in range(3)
    ]
    tables.append(label_candidates_table("trips"), pa.Table.from_pylist(queued, LABEL_CANDIDATES_SCHEMA))
    tables.append(predictions_table("trips"), prediction_rows([prediction_batch("q", rows=3)], "b:2"))
    with local_log_writer("trips", settings, monkeypatch):
        (tmp_path / "wrong.csv").write_text("id,label\nq/2,1\nq/9,0\n")
        with raises(DataError, "data.label_unknown_id", ids=["q/9"]):
            label("--in", "wrong.csv", "--by", "ann")
        assert not tables.exists(annotations_table("trips"))
        (tmp_path / "rows.csv").write_text("id,label\nq/2,1\nq/1,0\n")
        label("--in", "rows.csv", "--by", "ann")
        assert newest(tables, labels_table("trips"), "received") == {"q/2": 1.0, "q/1": 0.0}
        # q/2: 0; q/1: 1, taken back, 1 again; q/0: skipped; r/1: 1. Ties leave the first label.
        press(monkeypatch, "01u1s1", "--by", "bo", "--labelers", "2")
        assert newest(tables, labels_table("trips"), "received") == {"q/2": 1.0, "q/1": 0.0, "r/1": 1.0}
        press(monkeypatch, "0q", "--by", "cy", "--labelers", "3")
        assert newest(tables, labels_table("trips"), "received") == {"q/2": 0.0, "q/1": 0.0, "r/1": 1.0}
    given = pl.DataFrame(tables.read(annotations_table("trips")))
    assert sorted(given.select("labeler", "id", "label").rows()) == [
        ("ann", "q/1", 0.0), ("ann", "q/2", 1.0), ("bo", "q/1", 1.0), ("bo", "q/2", 0.0), ("bo", "r/1", 1.0),
        ("cy", "q/2", 0.0),
    ]  # fmt: skip


@pytest.mark.long
def test_model_without_a_version_is_refused(settings: Settings) -> None:
    with raises(VersionNotFound, "registry.no_version", model="trips"):
        label("--agreement")
