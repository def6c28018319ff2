"""Which candidates wait for a label, and in which order."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from cluster.errors import DataError
from cluster.names import label_candidates_table, labels_table, predictions_table
from cluster.settings import Settings
from cluster.storage.tables import Tables
from deployments.telemetry.prediction_log import prediction_rows
from features.labeling.annotations import no_annotations
from features.types import INSTANT
from rayloop.labeling.label_queue import rank_candidates, read_queue
from rayloop.stages.log_analysis_task import LABEL_CANDIDATES_SCHEMA
from tests.factories.deployments.predictions import label_table, prediction_batch
from tests.factories.deployments.tasks import BINARY, MULTICLASS
from tests.factories.errors import raises

EMPTY = pl.DataFrame(LABEL_CANDIDATES_SCHEMA.empty_table())
DAY = datetime(2024, 1, 1, tzinfo=UTC)


def candidates(**worth: float) -> pl.DataFrame:
    rows = [(id, "1", DAY, value) for id, value in worth.items()]
    return pl.DataFrame(rows, schema=EMPTY.schema, orient="row")


def stored(rows: pl.DataFrame) -> pa.Table:
    return rows.to_arrow().cast(LABEL_CANDIDATES_SCHEMA)


def annotations(*rows: tuple[str, str]) -> pl.DataFrame:
    return pl.DataFrame([(id, 1.0, who, DAY) for id, who in rows], schema=no_annotations().schema, orient="row")


@pytest.mark.parametrize(
    ("labeler", "labelers", "expected"),
    [
        ("ann", 1, ["c", "a"]),
        ("ann", 2, ["c", "a"]),
        ("bo", 2, ["c", "b", "a"]),
        ("", 2, ["c", "b", "a"]),
        ("bo", 1, ["c", "a"]),
    ],
)
def test_candidates_wait_until_they_have_labels_enough_from_others(
    labeler: str, labelers: int, expected: list[str]
) -> None:
    queued = candidates(a=0.1, b=0.2, c=0.3, d=0.4)
    # d was labeled by /feedback, b by ann, whose label is in the label log as well.
    waiting = rank_candidates(queued, pl.Series("id", ["d", "b"]), annotations(("b", "ann")), labeler, labelers)
    assert waiting.get_column("id").to_list() == expected


def test_candidate_of_two_windows_waits_once_and_says_why() -> None:
    later = candidates(a=0.5, b=0.25).with_columns(window=pl.lit(datetime(2024, 1, 2, tzinfo=UTC)).cast(INSTANT))
    waiting = rank_candidates(
        pl.concat([candidates(a=0.25), later]), pl.Series("id", [], pl.String), no_annotations(), "", 1
    )
    assert waiting.rows() == [
        ("a", "expected loss 0.5, number 1 of 2 in the window of 2024-01-02 00:00"),
        ("b", "expected loss 0.25, number 2 of 2 in the window of 2024-01-02 00:00"),
    ]


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(Settings(home=tmp_path))


def test_queue_has_what_was_logged(tables: Tables) -> None:
    tables.append(predictions_table("m"), prediction_rows([prediction_batch("r", 0.5, rows=3)], "b:1"))
    tables.append(label_candidates_table("m"), stored(candidates(**{"r/2": 0.3, "r/1": 0.2, "gone": 0.9})))
    found = read_queue(tables, "m", BINARY, no_annotations(), rows=5, labeler="", labelers=1)
    assert found.select("id", "request", "row", "version", "score", "predicted").rows() == [
        ("r/2", "r", 2, "1", 0.5, None), ("r/1", "r", 1, "1", 0.5, None),
    ]  # fmt: skip
    assert found.get_column("features").to_list() == [{"distance": 2.0}, {"distance": 1.0}]
    assert read_queue(tables, "m", BINARY, no_annotations(), rows=1, labeler="", labelers=1).height == 1
    tables.append(labels_table("m"), label_table({"r/2": 1.0}))
    left = read_queue(tables, "m", BINARY, no_annotations(), rows=5, labeler="", labelers=1)
    assert left.get_column("id").to_list() == ["r/1"]


def test_queue_of_several_classes_has_the_predicted_one_with_its_probability(tables: Tables) -> None:
    scores = np.array([[0.25, 0.625, 0.125]])
    batch = replace(prediction_batch("r"), task=MULTICLASS, champion=scores)
    tables.append(predictions_table("m"), prediction_rows([batch], "b:1"))
    tables.append(label_candidates_table("m"), stored(candidates(r=0.3)))
    found = read_queue(tables, "m", MULTICLASS, no_annotations(), rows=5, labeler="", labelers=1)
    assert found.select("score", "predicted").rows() == [(0.625, "birch")]


def test_empty_queue_is_an_error(tables: Tables) -> None:
    with raises(DataError, "data.label_queue_empty", model="m"):
        read_queue(tables, "m", BINARY, no_annotations(), rows=5, labeler="", labelers=1)
    tables.append(predictions_table("m"), prediction_rows([prediction_batch("r")], "b:1"))
    tables.append(label_candidates_table("m"), stored(candidates(gone=1.0)))
    with raises(DataError, "data.label_queue_empty", model="m"):
        read_queue(tables, "m", BINARY, no_annotations(), rows=5, labeler="", labelers=1)
