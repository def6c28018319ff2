"""Log rows become evidence once: labels join by row id, the newest counts, order does not matter."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.row_losses import row_loss
from deployments.analysis.evidence_collector import EvidenceCollector, evidence_columns
from deployments.telemetry.prediction_log import (
    PredictionBatch,
    feature_frame,
    from_ipc,
    prediction_rows,
    to_ipc,
)
from deployments.telemetry.reporter import window_profiles
from features.definitions import Column
from tests.factories.deployments.bundles import BINARY, CLASSES, MULTICLASS
from tests.factories.deployments.predictions import feature_rows, label_table, prediction_batch

LATER = {"forced", "champion_latency_ms", "challenger_latency_ms", "champion_share", "challenger_version"}
"""Columns that a log of old does without."""
DAY_US = 86_400_000_000
COLUMNS = (Column(name="distance", kind="number"),)


def test_counts_by_arm_are_requests_not_rows() -> None:
    log = EvidenceCollector("r", ("2",))
    log.add_predictions(
        prediction_rows(
            [
                prediction_batch("a", rows=3),
                prediction_batch("b", challenger=0.7, rows=2),
                prediction_batch("c", error="no answer within 1 s"),
                prediction_batch("d", champion=None, champion_error="ValueError"),
                prediction_batch("e", champion=None, error="x", champion_error="ValueError"),
                prediction_batch("f", rollout="another"),
                prediction_batch("g", rollout=None, share=None),
            ],
            "b",
        )
    )
    seen = log.evidence(BINARY)["2"].total
    assert (seen.champion.requests, seen.champion.errors) == (2, 1)
    # The challenger's failure on a request that the champion fails as well is not held against it.
    assert (seen.challenger.requests, seen.challenger.errors, seen.challenger.failures) == (3, 1, 2)
    assert (seen.champion.keys, seen.challenger.keys) == (2, 3)


@settings(max_examples=25)
@given(st.permutations(range(6)), st.data())
def test_evidence_is_the_same_in_any_order_of_arrival(order: list[int], data: st.DataObject) -> None:
    scores = np.linspace(0.1, 0.9, 6)
    truth = [0.0, 1.0, 1.0, 0.0, 1.0, 0.0]
    log = EvidenceCollector("r", ("2",))
    for i in order:
        steps = [
            lambda i=i: log.add_predictions(prediction_rows([prediction_batch(f"q{i}", 0.5, scores[i])], "b")),
            lambda i=i: log.add_labels(label_table({f"q{i}": truth[i]})),
        ]
        for step in data.draw(st.permutations(steps)):
            step()
    paired = log.evidence(BINARY)["2"].total.paired
    assert paired.n == 6
    assert paired.challenger == pytest.approx(row_loss(BINARY, scores, np.array(truth)).mean(), abs=1e-6)
    assert paired.champion == pytest.approx(np.log(2.0), abs=1e-6)


def test_the_newest_label_of_a_row_counts_and_only_it() -> None:
    log = EvidenceCollector("r", ("2",))
    log.add_predictions(prediction_rows([prediction_batch("a", 0.5, 0.9)], "b"))
    for received, label in ((1, 0.0), (3, 1.0), (2, 0.0)):
        log.add_labels(label_table({"a": label}, received))
    paired = log.evidence(BINARY)["2"].total.paired
    assert paired.n == 1
    assert paired.challenger == pytest.approx(-np.log(0.9), abs=1e-6)


def test_labels_of_rows_that_only_the_champion_saw_are_no_paired_evidence() -> None:
    log = EvidenceCollector("r", ("2",))
    log.add_predictions(prediction_rows([prediction_batch("a")], "b"))
    log.add_labels(label_table({"a": 1.0, "unknown": 0.0}))
    assert log.evidence(BINARY)["2"].total.paired.n == 0


def with_columns(answers: list[PredictionBatch], **columns: list) -> pa.Table:
    """Log rows of single-row answers, with columns that are not written by ``predictions`` replaced or added."""
    table = prediction_rows(answers, "b")
    for name, values in columns.items():
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, pa.array(values))
    return table


def test_a_tester_who_forces_the_variant_is_no_evidence() -> None:
    answers = [prediction_batch("a", 0.5, 0.9), prediction_batch("b", 0.5, 0.9), prediction_batch("c", error="x")]
    log = EvidenceCollector("r", ("2",))
    log.add_predictions(with_columns(answers, forced=[False, True, True]))
    log.add_labels(label_table({"a": 1.0, "b": 1.0}))
    total = log.evidence(BINARY)["2"].total
    assert (total.challenger.requests, total.challenger.keys, total.challenger.errors, total.paired.n) == (1, 1, 0, 1)


def test_a_batch_tells_one_latency_and_only_where_both_variants_worked_on_it() -> None:
    answers = [
        prediction_batch("a", at_us=1),
        prediction_batch("b", 0.5, 0.9, at_us=1),
        prediction_batch("c", 0.5, 0.9, at_us=1),
        prediction_batch("d", at_us=2),
    ]
    champion, challenger = [4.0, 4.0, 4.0, 100.0], [None, 16.0, 16.0, None]
    rows = with_columns(answers, champion_latency_ms=champion, challenger_latency_ms=challenger)
    log = EvidenceCollector("r", ("2",))
    for part in (rows.slice(0, 2), rows.slice(2)):
        log.add_predictions(part)
    total = log.evidence(BINARY)["2"].total
    assert (total.champion.latency.n, total.challenger.latency.n) == (1, 1)
    assert (total.champion.latency.quantile(0.5), total.challenger.latency.quantile(0.5)) == (4.0, 16.0)


def test_a_log_of_old_tells_the_latency_of_who_answered() -> None:
    answers = [
        prediction_batch("a", at_us=1),
        prediction_batch("b", at_us=2, champion_latency_ms=8.0),
        prediction_batch("c", 0.5, 0.9, at_us=1, challenger_latency_ms=16.0),
    ]
    log = EvidenceCollector("r", ("2",))
    log.add_predictions(prediction_rows(answers, "b").drop_columns(sorted(LATER)))
    total = log.evidence(BINARY)["2"].total
    assert (total.champion.latency.n, total.challenger.latency.quantile(0.5)) == (2, 16.0)


def test_keys_are_counted_once_at_each_share_and_once_as_a_whole() -> None:
    at = [("u", 0.05, 0.9), ("u", 0.05, 0.9), ("u", 0.25, 0.9), ("v", 0.05, None), ("w", 0.25, None)]
    answers = [prediction_batch(f"q{i}", 0.5, score, key=key, share=share) for i, (key, share, score) in enumerate(at)]
    log = EvidenceCollector("r", ("2",))
    log.add_predictions(prediction_rows(answers, "b"))
    log.add_labels(label_table(dict.fromkeys(("q0", "q1", "q2"), 1.0)))
    seen = log.evidence(BINARY)["2"]
    assert [(seen.at_share(s).champion.keys, seen.at_share(s).challenger.keys) for s in (0.05, 0.25)] == [
        (1, 1),
        (1, 1),
    ]
    assert (
        seen.at_share(0.05).challenger.key_clusters.pairs,
        seen.total.challenger.key_clusters.pairs,
        seen.total.challenger.keys,
    ) == (
        2,
        6,
        1,
    )
    assert (seen.at_share(0.05).paired.effective_n, seen.total.paired.effective_n) == (1.0, 1.0)
    assert seen.total.paired.n == 3


def test_evidence_by_accuracy_counts_mistakes() -> None:
    log = EvidenceCollector("r", ("2",))
    log.add_predictions(
        prediction_rows(
            [prediction_batch("a", 0.4, 0.9), prediction_batch("b", 0.4, 0.2), prediction_batch("c", 0.7, 0.8)], "b"
        )
    )
    log.add_labels(label_table({"a": 1.0, "b": 1.0, "c": 1.0}))
    paired = log.evidence(BINARY, "accuracy")["2"].total.paired
    assert (paired.champion, paired.challenger) == (pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_evidence_is_kept_by_share() -> None:
    log = EvidenceCollector("r", ("2",))
    log.add_predictions(
        prediction_rows([prediction_batch("a", 0.5, 0.9, share=0.05), prediction_batch("b", 0.5, 0.9, share=1.0)], "b")
    )
    log.add_labels(label_table({"b": 1.0}))
    seen = log.evidence(BINARY)["2"]
    assert (seen.at_share(0.05).challenger.requests, seen.at_share(0.05).paired.n) == (1, 0)
    assert (seen.at_share(1.0).challenger.requests, seen.at_share(1.0).paired.n) == (1, 1)


def test_log_rows_hold_ids_scores_and_features() -> None:
    table = from_ipc(
        to_ipc(prediction_rows([prediction_batch("a", 0.25, 0.75, rows=2), prediction_batch("b")], "batch"))
    )
    assert table.column("id").to_pylist() == ["a/0", "a/1", "b"]
    assert table.column("score").to_pylist() == [0.75, 0.75, 0.5]
    assert table.column("challenger_score").to_pylist() == [0.75, 0.75, None]
    assert table.column("champion_score").to_pylist() == [0.25, 0.25, 0.5]
    assert feature_frame(table).column("distance").to_pylist() == [0.0, 1.0, 0.0]
    assert set(evidence_columns(BINARY)) - LATER <= set(table.column_names)


def test_multiclass_rows_hold_probabilities_and_class() -> None:
    champion, challenger = np.array([[0.2, 0.5, 0.3]]), np.array([[0.1, 0.1, 0.8]])
    made = prediction_batch("a", task=MULTICLASS, champion=None, challenger=0.0)
    made = PredictionBatch(
        **{s: getattr(made, s) for s in PredictionBatch.__slots__} | {"champion": champion, "challenger": challenger}
    )
    table = prediction_rows([made], "b")
    assert table.column("predicted").to_pylist() == [CLASSES[2]]
    assert table.column("probabilities").to_pylist() == [[0.1, 0.1, 0.8]]
    log = EvidenceCollector("r", ("2",))
    log.add_predictions(table.select([name for name in evidence_columns(MULTICLASS) if name in table.column_names]))
    log.add_labels(label_table({"a": 1.0}))
    paired = log.evidence(MULTICLASS)["2"].total.paired
    assert (paired.champion, paired.challenger) == pytest.approx((-np.log(0.5), -np.log(0.1)))


def test_profiles_are_by_event_time_window() -> None:
    made = [
        prediction_batch("a", rows=3, frame=feature_rows(3, 0)),
        prediction_batch("b", rows=2, frame=feature_rows(2, DAY_US + 5)),
    ]
    by_window = window_profiles(made, COLUMNS, 86400.0)
    assert {start: profile.rows for start, profile in by_window.items()} == {0.0: 3, 86400.0: 2}


def test_windows_before_1970_start_before_their_rows() -> None:
    assert list(window_profiles([prediction_batch("a", frame=feature_rows(1, -1))], COLUMNS, 86400.0)) == [-86400.0]


@pytest.mark.parametrize("year", [1, 9999])
def test_a_time_of_no_sense_costs_no_other_row_its_profile(year: int) -> None:
    at_us = int((datetime(year, 1, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
    made = [
        prediction_batch("a", rows=3, frame=feature_rows(3, 0)),
        prediction_batch("b", frame=feature_rows(1, at_us)),
    ]
    by_window = window_profiles(made, COLUMNS, 86400.0)
    assert {start: profile.rows for start, profile in by_window.items()} == {0.0: 3, at_us / 1e6: 1}
