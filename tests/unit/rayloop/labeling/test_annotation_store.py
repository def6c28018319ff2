"""Annotations in their table."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from cluster.errors import DataError
from cluster.names import annotations_table, labels_table, predictions_table
from cluster.settings import Settings
from cluster.storage.tables import Tables
from deployments.protocol.arrow_columns import TIMESTAMP
from deployments.telemetry.prediction_log import batch_replica, label_rows, prediction_rows, to_ipc
from rayloop.labeling import annotation_store
from rayloop.labeling.annotation_store import (
    commit_log,
    log_labels,
    measure_labelers,
    read_annotations,
    require_answered,
    store_annotations,
)
from tests.factories.deployments.local_log_writer import WriterHandle, local_log_writer
from tests.factories.deployments.predictions import prediction_batch
from tests.factories.deployments.tasks import BINARY
from tests.factories.errors import raises


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(Settings(home=tmp_path))


def labels(**values: float) -> pl.DataFrame:
    return pl.DataFrame({"id": list(values), "label": list(values.values())}, {"id": pl.String, "label": pl.Float64})


def test_store_annotations_keeps_who_and_when_and_repeats_nothing(tables: Tables) -> None:
    assert store_annotations(tables, "m", "ann", labels(a=1.0, b=0.0)) == 2
    assert store_annotations(tables, "m", "ann", labels(a=1.0, b=0.0)) == 0
    assert store_annotations(tables, "m", "bo", labels(a=0.0, b=0.0)) == 2
    assert store_annotations(tables, "m", "ann", labels(b=1.0)) == 1
    rows = read_annotations(tables, "m")
    assert rows.select("id", "label", "labeler").rows() == [
        ("b", 1.0, "ann"), ("a", 0.0, "bo"), ("b", 0.0, "bo"), ("a", 1.0, "ann"), ("b", 0.0, "ann"),
    ]  # fmt: skip
    assert rows.get_column("at").null_count() == 0
    agreement = measure_labelers(tables, "m", BINARY)
    assert (agreement.shared, agreement.percent, agreement.labelers) == (2, 0.0, ("ann", "bo"))


def test_labels_without_news_make_no_table(tables: Tables) -> None:
    assert store_annotations(tables, "m", "ann", labels()) == 0
    assert not tables.exists(annotations_table("m"))
    assert read_annotations(tables, "m").is_empty()


def test_require_answered_names_ids_that_the_log_has_not(tables: Tables) -> None:
    with raises(DataError, "data.label_unknown_id", count=1):
        require_answered(tables, "m", pl.Series(["r/0"]))
    tables.append(predictions_table("m"), prediction_rows([prediction_batch("r", rows=2)], "b:1"))
    require_answered(tables, "m", pl.Series(["r/0", "r/1"]))
    with raises(DataError, "data.label_unknown_id", ids=["r/2", "x"], count=2):
        require_answered(tables, "m", pl.Series(["r/0", "x", "r/2"]))


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriterHandle]:
    with local_log_writer("m", Settings(home=tmp_path), monkeypatch) as handle:
        yield handle


def logged(tables: Tables) -> list[tuple[str, float]]:
    rows = pl.DataFrame(tables.read(labels_table("m"))).sort("received", "id")
    assert {batch_replica(batch) for batch in rows.get_column("batch")} <= {"label", "replica"}
    return rows.select("id", "label").rows()


def test_labels_are_logged_once_and_follow_the_labelers(tables: Tables, writer: WriterHandle) -> None:
    store_annotations(tables, "m", "ann", labels(a=1.0, b=0.0))
    assert [log_labels(tables, "m", BINARY) for _ in range(2)] == [2, 0]
    assert logged(tables) == [("a", 1.0), ("b", 0.0)]
    store_annotations(tables, "m", "bo", labels(a=0.0))
    # A tie: the first label stays.
    assert log_labels(tables, "m", BINARY) == 0
    store_annotations(tables, "m", "cy", labels(a=0.0))
    assert log_labels(tables, "m", BINARY) == 1
    assert logged(tables)[2:] == [("a", 0.0)]


def test_later_label_of_feedback_stays_until_a_labeler_speaks_again(tables: Tables, writer: WriterHandle) -> None:
    store_annotations(tables, "m", "ann", labels(a=1.0))
    log_labels(tables, "m", BINARY)
    later = label_rows(
        pa.table({"id": ["a"], "label": [0.0], "time": pa.nulls(1, TIMESTAMP)}), time.time_ns() // 1000, "replica:1"
    )
    writer.append.remote("labels", "replica:1", to_ipc(later)).result(60)
    assert log_labels(tables, "m", BINARY) == 0
    store_annotations(tables, "m", "bo", labels(a=1.0))
    assert log_labels(tables, "m", BINARY) == 1
    assert logged(tables) == [("a", 1.0), ("a", 0.0), ("a", 1.0)]


def test_model_without_a_log_writer_is_an_error(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_store, "find_actor", lambda name: None)
    with raises(DataError, "data.no_log_writer", model="m"):
        commit_log("m")
