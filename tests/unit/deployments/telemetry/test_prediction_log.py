import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deployments.analysis.validity.validity_evidence import Assignment
from deployments.telemetry.prediction_log import (
    count_assignments,
    feature_frame,
    from_ipc,
    prediction_rows,
    row_ids,
    to_ipc,
)
from tests.factories.deployments.predictions import feature_rows, prediction_batch
from tests.factories.deployments.tasks import CLASSES, MULTICLASS


@given(st.lists(st.integers(1, 12), min_size=1, max_size=9))
def test_prediction_rows_have_the_request_id_and_row_number(sizes: list[int]) -> None:
    requests = [f"q{i}" for i in range(len(sizes))]
    rows = prediction_rows([prediction_batch(q, rows=size) for q, size in zip(requests, sizes, strict=True)], "b")
    expected = [(q, i) for q, size in zip(requests, sizes, strict=True) for i in range(size)]
    assert list(zip(rows["request"].to_pylist(), rows["row"].to_pylist(), strict=True)) == expected
    single = {q for q, size in zip(requests, sizes, strict=True) if size == 1}
    assert rows["id"].to_pylist() == [q if q in single else f"{q}/{i}" for q, i in expected]


def test_prediction_rows_repeat_the_values_of_their_batch() -> None:
    answers = [
        prediction_batch("a", rows=2),
        prediction_batch("b", rows=1, share=0.1),
        prediction_batch("c", 0.5, 0.9, rows=3),
    ]
    rows = prediction_rows(answers, "b")
    assert rows["share"].to_pylist() == [0.5, 0.5, 0.1, 0.5, 0.5, 0.5]
    assert rows["variant"].to_pylist() == ["champion"] * 3 + ["challenger"] * 3
    assert rows["challenger_version"].to_pylist() == [None] * 3 + ["2"] * 3
    assert rows["batch"].to_pylist() == ["b"] * 6
    assert from_ipc(to_ipc(rows)).equals(rows)
    assert feature_frame(rows)["distance"].to_pylist() == [0.0, 1.0, 0.0, 0.0, 1.0, 2.0]
    assert feature_frame(rows).column_names == feature_rows(0).column_names


def test_prediction_rows_after_ipc_have_ids_scores_and_features() -> None:
    table = from_ipc(
        to_ipc(prediction_rows([prediction_batch("a", 0.25, 0.75, rows=2), prediction_batch("b")], "batch"))
    )
    assert table.column("id").to_pylist() == ["a/0", "a/1", "b"]
    assert table.column("score").to_pylist() == [0.75, 0.75, 0.5]
    assert table.column("challenger_score").to_pylist() == [0.75, 0.75, None]
    assert table.column("champion_score").to_pylist() == [0.25, 0.25, 0.5]
    assert feature_frame(table).column("distance").to_pylist() == [0.0, 1.0, 0.0]


def test_prediction_rows_of_multiclass_without_scores_have_nulls() -> None:
    scores = np.array([[0.2, 0.5, 0.3]])
    answers = [
        dataclasses.replace(prediction_batch("a", task=MULTICLASS), champion=scores),
        prediction_batch("b", None, rows=2, task=MULTICLASS, champion_error="ValueError"),
    ]
    rows = prediction_rows(answers, "b")
    assert rows["probabilities"].to_pylist() == [[0.2, 0.5, 0.3], None, None]
    assert rows["predicted"].to_pylist() == [CLASSES[1], None, None]
    assert rows["champion_probabilities"].to_pylist() == [[0.2, 0.5, 0.3], None, None]
    assert rows["challenger_probabilities"].to_pylist() == [None] * 3


def test_row_ids_number_the_rows_of_requests_with_several() -> None:
    assert row_ids(["a", "b"], [1, 1]).to_pylist() == ["a", "b"]
    assert row_ids(["a", "b", "c"], [2, 1, 2]).to_pylist() == ["a/0", "a/1", "b", "c/0", "c/1"]


def test_assignments_are_those_of_requests_that_the_split_assigned() -> None:
    several = prediction_batch("a")
    batches = [
        dataclasses.replace(
            several, requests=["a", "b", "c"], keys=["a", "b", "c"], forced=[False, True, False], sizes=[1, 1, 1]
        ),
        prediction_batch("d", challenger=0.9),
        prediction_batch("e", rollout=None, share=None),
    ]
    assert count_assignments(batches) == {
        Assignment("r", 0.5, 0.5, "champion", None): 2,
        Assignment("r", 0.5, 0.5, "challenger", "2"): 1,
    }
