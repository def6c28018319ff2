"""Log rows become evidence once: labels join by row id, the newest counts, order does not matter."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.row_losses import row_loss
from deployments.analysis import evidence_collector
from deployments.analysis.evidence_collector import EvidenceCollector, evidence_columns
from deployments.telemetry.prediction_log import (
    PredictionBatch,
    prediction_rows,
)
from features.definitions import Column
from tests.factories.deployments.predictions import copied_batch, label_table, prediction_batch
from tests.factories.deployments.tasks import BINARY, CLASSES, MULTICLASS

LATER = {
    "forced",
    "champion_latency_ms",
    "challenger_latency_ms",
    "champion_share",
    "challenger_version",
    "version",
    "copied",
}
"""Columns that the first release's log lacks."""
DAY_US = 86_400_000_000
COLUMNS = (Column(name="distance", kind="number"),)


def test_evidence_counts_requests_not_rows() -> None:
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
    evidence = log.evidence(BINARY)["2"].total
    assert (evidence.champion.requests, evidence.champion.errors) == (2, 1)
    # The challenger's failure on a request that the champion fails as well is not held against it.
    assert (evidence.challenger.requests, evidence.challenger.errors, evidence.challenger.failures) == (3, 1, 2)
    assert (evidence.champion.keys, evidence.challenger.keys) == (2, 3)


@settings(max_examples=25)
@given(st.permutations(range(6)), st.data())
def test_evidence_in_any_order_of_arrival_is_the_same(order: list[int], data: st.DataObject) -> None:
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


def test_evidence_with_several_labels_of_a_row_uses_the_newest() -> None:
    log = EvidenceCollector("r", ("2",))
    log.add_predictions(prediction_rows([prediction_batch("a", 0.5, 0.9)], "b"))
    for received, label in ((1, 0.0), (3, 1.0), (2, 0.0)):
        log.add_labels(label_table({"a": label}, received))
    paired = log.evidence(BINARY)["2"].total.paired
    assert paired.n == 1
    assert paired.challenger == pytest.approx(-np.log(0.9), abs=1e-6)


def test_evidence_without_challenger_scores_has_no_pairs() -> None:
    log = EvidenceCollector("r", ("2",))
    log.add_predictions(prediction_rows([prediction_batch("a")], "b"))
    log.add_labels(label_table({"a": 1.0, "unknown": 0.0}))
    assert log.evidence(BINARY)["2"].total.paired.n == 0


def test_evidence_counts_copies_for_losses_and_errors_not_for_the_split() -> None:
    log = EvidenceCollector("r", ("2",))
    batches = [
        prediction_batch("own", challenger=0.7),
        prediction_batch("plain"),
        copied_batch("a", "scored", 0.7, rows=2),
        copied_batch("b", "failed"),
        copied_batch("c", "unanswered"),
        copied_batch("d", "dropped", challenger_version=None),
    ]
    log.add_predictions(prediction_rows(batches, "b"))
    log.add_labels(label_table(dict.fromkeys(("own", "plain", "a/0", "a/1", "b", "c", "d"), 1.0)))
    total = log.evidence(BINARY)["2"].total
    assert (total.champion.requests, total.champion.keys, total.champion.errors) == (5, 5, 0)
    assert (total.challenger.requests, total.challenger.keys, total.challenger.failures) == (1, 1, 0)
    copies = total.copies
    assert (copies.requests, copies.errors, copies.unanswered, copies.answered, copies.keys) == (3, 1, 1, 2, 0)
    assert (total.scored.requests, total.scored.answered, total.scored.errors) == (4, 3, 1)
    assert (total.paired.n, total.champion.latency.n, total.challenger.latency.n) == (3, 1, 1)


def test_evidence_of_copies_counts_a_key_that_later_was_the_challengers_as_one_cluster() -> None:
    log = EvidenceCollector("r", ("2",))
    batches = [
        copied_batch("a", "scored", 0.7, key="u", share=0.05),
        copied_batch("b", "failed", key="u", share=0.05),
        prediction_batch("c", challenger=0.7, key="u", share=0.25),
    ]
    log.add_predictions(prediction_rows(batches, "b"))
    evidence = log.evidence(BINARY)["2"]
    scored = evidence.total.scored
    # Three requests of one key, in one time bucket: six ordered pairs; of the failed one with the others, two.
    assert (scored.key_clusters.pairs, scored.key_clusters.half_pairs, scored.time_clusters.pairs) == (6, 2, 6)
    assert (evidence.total.challenger.key_clusters.pairs, evidence.at_share(0.05).scored.key_clusters.pairs) == (0, 2)


def test_evidence_of_several_challengers_has_the_champions_requests_and_each_its_own_copies() -> None:
    log = EvidenceCollector("r", ("2", "3"))
    batches = [
        copied_batch("a", "scored", 0.7),
        copied_batch("b", "scored", 0.7, challenger_version="3"),
        copied_batch("c", "failed", challenger_version="3"),
        prediction_batch("d"),
    ]
    log.add_predictions(prediction_rows(batches, "b"))
    log.add_labels(label_table(dict.fromkeys("abcd", 1.0)))
    totals = {version: evidence.total for version, evidence in log.evidence(BINARY).items()}
    assert {version: total.champion.requests for version, total in totals.items()} == {"2": 4, "3": 4}
    assert {version: (t.copies.requests, t.copies.errors, t.paired.n) for version, t in totals.items()} == {
        "2": (1, 0, 1),
        "3": (2, 1, 1),
    }


def with_columns(answers: list[PredictionBatch], **columns: list) -> pa.Table:
    """Log rows of single-row answers, with columns that are not written by ``predictions`` replaced or added."""
    table = prediction_rows(answers, "b")
    for name, values in columns.items():
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, pa.array(values))
    return table


def test_evidence_excludes_forced_requests() -> None:
    answers = [prediction_batch("a", 0.5, 0.9), prediction_batch("b", 0.5, 0.9), prediction_batch("c", error="x")]
    log = EvidenceCollector("r", ("2",))
    log.add_predictions(with_columns(answers, forced=[False, True, True]))
    log.add_labels(label_table({"a": 1.0, "b": 1.0}))
    total = log.evidence(BINARY)["2"].total
    assert (total.challenger.requests, total.challenger.keys, total.challenger.errors, total.paired.n) == (1, 1, 0, 1)


def test_evidence_counts_one_latency_per_shared_batch() -> None:
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


def test_evidence_from_an_older_log_uses_the_answering_latency() -> None:
    answers = [
        prediction_batch("a", at_us=1),
        prediction_batch("b", at_us=2, champion_latency_ms=8.0),
        prediction_batch("c", 0.5, 0.9, at_us=1, challenger_latency_ms=16.0),
    ]
    log = EvidenceCollector("r", ("2",))
    log.add_predictions(prediction_rows(answers, "b").drop_columns(sorted(LATER)))
    total = log.evidence(BINARY)["2"].total
    assert (total.champion.latency.n, total.challenger.latency.quantile(0.5)) == (2, 16.0)


def test_evidence_counts_keys_once_per_share_and_overall() -> None:
    at = [("u", 0.05, 0.9), ("u", 0.05, 0.9), ("u", 0.25, 0.9), ("v", 0.05, None), ("w", 0.25, None)]
    answers = [prediction_batch(f"q{i}", 0.5, score, key=key, share=share) for i, (key, share, score) in enumerate(at)]
    log = EvidenceCollector("r", ("2",))
    log.add_predictions(prediction_rows(answers, "b"))
    log.add_labels(label_table(dict.fromkeys(("q0", "q1", "q2"), 1.0)))
    evidence = log.evidence(BINARY)["2"]
    assert [(evidence.at_share(s).champion.keys, evidence.at_share(s).challenger.keys) for s in (0.05, 0.25)] == [
        (1, 1),
        (1, 1),
    ]
    assert (
        evidence.at_share(0.05).challenger.key_clusters.pairs,
        evidence.total.challenger.key_clusters.pairs,
        evidence.total.challenger.keys,
    ) == (
        2,
        6,
        1,
    )
    assert (evidence.at_share(0.05).paired.effective_n, evidence.total.paired.effective_n) == (1.0, 1.0)
    assert evidence.total.paired.n == 3


def test_evidence_counts_requests_of_one_time_bucket_as_a_cluster() -> None:
    times = (0, 1_999_999, 2_000_000, 3_999_999, 4_000_000)
    log = EvidenceCollector("r", ("2",))
    log.add_predictions(prediction_rows([prediction_batch(f"q{at}", at_us=at) for at in times], "b"))
    # Two buckets of two seconds have two requests, hence two ordered pairs, each.
    assert log.evidence(BINARY)["2"].total.champion.time_clusters.pairs == 4


def test_evidence_by_accuracy_counts_errors() -> None:
    log = EvidenceCollector("r", ("2",))
    log.add_predictions(
        prediction_rows(
            [prediction_batch("a", 0.4, 0.9), prediction_batch("b", 0.4, 0.2), prediction_batch("c", 0.7, 0.8)], "b"
        )
    )
    log.add_labels(label_table({"a": 1.0, "b": 1.0, "c": 1.0}))
    paired = log.evidence(BINARY, "accuracy")["2"].total.paired
    assert (paired.champion, paired.challenger) == (pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_evidence_is_separate_by_share() -> None:
    log = EvidenceCollector("r", ("2",))
    log.add_predictions(
        prediction_rows([prediction_batch("a", 0.5, 0.9, share=0.05), prediction_batch("b", 0.5, 0.9, share=1.0)], "b")
    )
    log.add_labels(label_table({"b": 1.0}))
    evidence = log.evidence(BINARY)["2"]
    assert (evidence.at_share(0.05).challenger.requests, evidence.at_share(0.05).paired.n) == (1, 0)
    assert (evidence.at_share(1.0).challenger.requests, evidence.at_share(1.0).paired.n) == (1, 1)


def test_evidence_columns_are_in_the_log() -> None:
    rows = prediction_rows([prediction_batch("a", 0.25, 0.75)], "b")
    assert set(evidence_columns(BINARY)) - LATER <= set(rows.column_names)


def test_prediction_rows_of_multiclass_have_probabilities_and_class() -> None:
    champion, challenger = np.array([[0.2, 0.5, 0.3]]), np.array([[0.1, 0.1, 0.8]])
    batch = prediction_batch("a", task=MULTICLASS, champion=None, challenger=0.0)
    batch = PredictionBatch(
        **{s: getattr(batch, s) for s in PredictionBatch.__slots__} | {"champion": champion, "challenger": challenger}
    )
    table = prediction_rows([batch], "b")
    assert table.column("predicted").to_pylist() == [CLASSES[2]]
    assert table.column("probabilities").to_pylist() == [[0.1, 0.1, 0.8]]
    log = EvidenceCollector("r", ("2",))
    log.add_predictions(table.select([name for name in evidence_columns(MULTICLASS) if name in table.column_names]))
    log.add_labels(label_table({"a": 1.0}))
    paired = log.evidence(MULTICLASS)["2"].total.paired
    assert (paired.champion, paired.challenger) == pytest.approx((-np.log(0.5), -np.log(0.1)))


def test_rows_that_both_scored_are_compared_without_labels() -> None:
    log = EvidenceCollector("r", ("2",))
    batches = [prediction_batch(f"q{i}", 0.5, 0.6 + 0.1 * (i % 2)) for i in range(4)]
    log.add_predictions(prediction_rows([*batches, prediction_batch("mine")], "b"))
    evidence = log.evidence(BINARY)["2"]
    for of_rows in (evidence.total, evidence.at_share(0.5)):
        assert (of_rows.agreement.rows, of_rows.agreement.mean_distance) == (4, pytest.approx(0.15))
        assert of_rows.paired.n == 0


def test_log_is_added_in_the_order_in_which_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that came while their rows waited find them, although later rows would have expired these."""
    monkeypatch.setattr(evidence_collector, "REPLAY_ROWS", 1)
    times = {"a": 0, "b": 40 * DAY_US, "c": 80 * DAY_US}
    batches = [prediction_batch(id, 0.5, 0.6, at_us=at) for id, at in times.items()]
    labels = [label_table({id: 1.0}, at + DAY_US) for id, at in times.items()]
    log = EvidenceCollector("r", ("2",))
    log.add_log(prediction_rows(batches[::-1], "b"), pa.concat_tables(labels[::-1]))
    evidence = log.evidence(BINARY)["2"]
    assert (evidence.total.paired.n, evidence.expired_rows) == (3, 0)


def test_rows_of_a_probation_count_for_the_promoted_version_as_a_challenger() -> None:
    """Version 2 was promoted; it answers, and version 1 scores copies."""
    log = EvidenceCollector("r", ("2", "3"))
    at = {"rollout": "r", "share": 0.0, "champion_share": 1.0, "assigned": "champion", "variant": "champion"}
    after = {"champion_version": "2", "version": "2", "challenger_version": "1"} | at
    before = prediction_batch("a", 0.4, 0.9, share=0.5)
    log.add_predictions(prediction_rows([before, prediction_batch("b", 0.9, 0.4, **after)], "b"))
    log.add_labels(label_table({"a": 1.0, "b": 1.0}))
    evidence = log.evidence(BINARY)
    paired = evidence["2"].total.paired
    assert paired.n == 2
    assert (paired.champion, paired.challenger) == pytest.approx((-np.log(0.4), -np.log(0.9)))
    assert evidence["2"].total.champion.requests == evidence["3"].total.champion.requests == 0
    assert evidence["2"].total.challenger.requests == 1
    assert evidence["3"].total.paired.n == 0
