"""What is wrong with single rows is found in them: variants, answers, repeated ids, changed labels, first keys."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from cluster.values import Task
from deployments.analysis.evidence_collector import EvidenceCollector
from deployments.analysis.validity import validity_collector
from deployments.analysis.validity.check_result import SCALE
from deployments.analysis.validity.validity_evidence import Assignment, HeldOut, ValidityEvidence
from deployments.telemetry.prediction_log import PredictionBatch, prediction_rows
from deployments.traffic_split import find_slice
from tests.factories.deployments.predictions import copied_batch, label_table, prediction_batch
from tests.factories.deployments.tasks import BINARY, MULTICLASS

KEYS = {
    of_challenger: [f"u{i}" for i in range(400) if (find_slice("r", f"u{i}", 0.5) is not None) == of_challenger]
    for of_challenger in (True, False)
}


def answer(number: int, of_challenger: bool = True, **rest) -> PredictionBatch:
    """An answer to a request whose key belongs to its variant."""
    key = rest.pop("key", KEYS[of_challenger][number])
    return prediction_batch(f"q{number}{of_challenger:d}", 0.5, 0.9 if of_challenger else None, key=key, **rest)


def evidence_of(rows: pa.Table, labels: dict[str, float] | None = None, since_us: int = 0) -> ValidityEvidence:
    collector = EvidenceCollector("r", ("2",), since_us)
    collector.add_predictions(rows)
    collector.add_labels(label_table(labels or {}))
    evidence = collector.evidence(BINARY)["2"].validity
    assert evidence is not None
    return evidence


def test_rows_of_their_keys_variant_are_sound() -> None:
    rows = prediction_rows([answer(i, of_challenger) for i in range(5) for of_challenger in (True, False)], "b")
    evidence = evidence_of(rows, {"q01": 1.0})
    assert (evidence.misassigned.rows, evidence.inconsistent.rows, evidence.repeated_rows.rows) == (0, 0, 0)
    assert (evidence.rows, evidence.labeled, evidence.first_keys) == (10, 1, {0.5: (5, 5)})


def test_row_of_the_other_variants_key_is_misassigned() -> None:
    swapped = [answer(i, True, key=KEYS[False][i]) for i in range(7)]
    evidence = evidence_of(prediction_rows([*swapped, answer(9, False)], "b"))
    assert (evidence.misassigned.rows, evidence.misassigned.ids) == (7, ("q01", "q11", "q21", "q31", "q41"))
    # A tester's variant, or a key that an old log lacks, says nothing.
    forced = [answer(1, True, key=KEYS[False][1], forced=[True])]
    assert evidence_of(prediction_rows(forced, "b")).misassigned.rows == 0
    assert evidence_of(prediction_rows(swapped, "b").drop_columns(["key"])).misassigned.rows == 0


def test_answer_that_is_not_the_variants_score_is_inconsistent() -> None:
    rows = prediction_rows([answer(1), answer(2, False)], "b")
    names = [{"champion_score": "challenger_score", "challenger_score": "champion_score"}.get(n, n)
             for n in rows.column_names]  # fmt: skip
    evidence = evidence_of(rows.rename_columns(names))
    assert evidence.inconsistent.ids == ("q11", "q20")


def test_id_that_is_logged_twice_is_repeated_and_a_changed_label_counts() -> None:
    collector = EvidenceCollector("r", ("2",))
    for batch in ("a", "b"):
        collector.add_predictions(prediction_rows([answer(1), answer(2, False)], batch))
    for received, label in ((1, 0.0), (2, 0.0), (3, 1.0)):
        collector.add_labels(label_table({"q11": label, "q99": label}, received))
    evidence = collector.evidence(BINARY)["2"].validity
    assert evidence is not None
    assert (evidence.rows, evidence.repeated_rows.ids, evidence.changed_labels.ids) == (2, ("q11", "q20"), ("q11",))


def test_scores_of_copies_belong_to_the_challenger_that_was_sent_them() -> None:
    copies = [copied_batch(f"q{i}", "scored", 0.9, key=KEYS[False][i], champion=i / 40) for i in range(40)]
    collector = EvidenceCollector("r", ("2", "3"))
    collector.add_predictions(prediction_rows(copies, "b"))
    collector.add_labels(label_table({f"q{i}": float(i % 2) for i in range(40)}))
    compared = {
        version: each.validity and (each.validity.labeled, each.validity.champion_labels.relation.rows)
        for version, each in collector.evidence(BINARY).items()
    }
    assert compared == {"2": (40, 40), "3": (40, 0)}


def test_rows_from_before_a_time_are_set_aside() -> None:
    rows = prediction_rows([answer(1, at_us=10), answer(2, at_us=20)], "b")
    collector = EvidenceCollector("r", ("2",), since_us=20)
    collector.add_predictions(rows)
    evidence = collector.evidence(BINARY)["2"]
    assert (evidence.total.challenger.requests, evidence.validity and evidence.validity.rows) == (1, 1)


def test_key_that_returns_at_another_share_is_no_first_key() -> None:
    rows = [answer(1), answer(2, False), answer(3, share=0.9, key=KEYS[True][1]), answer(4, share=0.9)]
    assert evidence_of(prediction_rows(rows, "b")).first_keys == {0.5: (1, 1), 0.9: (0, 1)}
    seen = validity_collector.SeenKeys(most=20)
    first = seen.mark_first(pa.table({"key": [f"k{i}" for i in range(500)]}))
    again = seen.mark_first(pa.table({"key": [f"k{i}" for i in range(500)]}))
    assert sum(first[validity_collector.FIRST_KEY].to_pylist()) == 500
    assert not any(again[validity_collector.FIRST_KEY].to_pylist())


@pytest.mark.parametrize("task", [MULTICLASS, Task(kind="regression", label="y")], ids=["multiclass", "regression"])
def test_labels_and_scores_of_other_tasks_are_compared(task: Task) -> None:
    chance, wide = np.random.default_rng(0), task.kind == "multiclass"
    collector = EvidenceCollector("r", ("2",))
    batches, labels = [], {}
    for i in range(80):
        scores = chance.dirichlet(np.ones(3), 1) if wide else chance.normal(0.0, 1.0, 1)
        labels[f"q{i}1"] = float(chance.choice(3, p=scores[0])) if wide else float(scores[0] + chance.normal(0.0, 0.5))
        batches.append(replace(answer(i), task=task, champion=scores, challenger=scores))
    collector.add_predictions(prediction_rows(batches, "b"))
    collector.add_labels(label_table(labels))
    held_out = HeldOut.from_manifest(task, {"rmse": 0.5}, (0.5, 0.3, 0.2) if wide else ())
    evidence = collector.evidence(task, "loss", held_out)["2"].validity
    assert evidence is not None
    assert evidence.trained_shares == ((0.5, 0.3, 0.2) if wide else ())
    for compared in (evidence.champion_labels, evidence.challenger_labels):
        assert compared.slope.value == pytest.approx(1.0, abs=0.6)
        assert len(compared.class_shares) == (3 if wide else 0)
        assert (compared.far_off is None) == wide


@pytest.mark.parametrize(("later_s", "found"), [(0.5, False), (60.0, True)])
def test_labels_that_follow_a_slower_answer_are_not_late(later_s: float, found: bool) -> None:
    chance, collector = np.random.default_rng(0), EvidenceCollector("r", ("2",))
    for i in range(150):
        for of_challenger in (True, False):
            collector.add_predictions(prediction_rows([answer(i, of_challenger)], "b"))
            received_s = chance.exponential(1.0) + later_s * of_challenger
            collector.add_labels(label_table({f"q{i}{of_challenger:d}": 1.0}, int(1e6 * received_s)))
    evidence = collector.evidence(BINARY)["2"].validity
    assert evidence is not None
    assert (evidence.delay.log_e(scale=SCALE) > 5.0) == found


def test_lost_requests_count_for_the_challengers_that_they_concern() -> None:
    collector = EvidenceCollector("r", ("2", "3"))
    of_two, of_champion = Assignment("r", 0.25, 0.5, "challenger", "2"), Assignment("r", 0.25, 0.5, "champion", None)
    collector.add_lost({of_two: 3, of_champion: 5, of_two._replace(rollout="another"): 9})
    collector.add_predictions(prediction_rows([answer(1)], "b"))
    lost = {version: each.validity and each.validity.lost for version, each in collector.evidence(BINARY).items()}
    assert lost == {"2": {1.0 / 3.0: (5, 3)}, "3": {1.0 / 3.0: (5, 0)}}


def test_sample_to_score_again_has_features_and_a_bound() -> None:
    collector = EvidenceCollector("r", ("2",))
    assert collector.take_sample() is None
    for _ in range(10):
        collector.add_predictions(prediction_rows([answer(i) for i in range(20)], "b"))
    sample = collector.take_sample()
    assert sample is not None
    assert (sample.num_rows, "features" in sample.column_names, collector.take_sample()) == (64, True, None)
    collector.add_predictions(prediction_rows([answer(1)], "b").drop_columns(["features"]))
    assert collector.take_sample() is None


def test_batch_without_rows_leaves_a_multiclass_sample_as_it_is() -> None:
    shares = np.full((1, 3), 1 / 3)
    rows = prediction_rows([replace(answer(1, task=MULTICLASS), champion=shares, challenger=shares)], "b")
    collector = EvidenceCollector("r", ("2",))
    for batch in (rows.slice(0, 0), rows, rows.slice(0, 0)):
        collector.add_predictions(batch)
    evidence = collector.evidence(MULTICLASS)["2"].validity
    assert evidence is not None
    assert evidence.rows == 1


def test_batch_of_failed_rows_leaves_a_multiclass_sample_as_it_is() -> None:
    shares = np.full((1, 3), 1 / 3)
    scored = replace(answer(1, task=MULTICLASS), champion=shares, challenger=shares)
    failed = replace(answer(2, task=MULTICLASS), champion=None, challenger=None)
    rows, neither = prediction_rows([scored, failed], "b"), prediction_rows([scored, failed], "c")
    collector = EvidenceCollector("r", ("2",))
    for batch in (rows.slice(1), rows.slice(0, 1), neither.slice(1)):
        collector.add_predictions(batch)
    evidence = collector.evidence(MULTICLASS)["2"].validity
    assert evidence is not None
    assert evidence.rows == 2
