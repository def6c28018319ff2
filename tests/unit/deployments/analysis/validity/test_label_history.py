"""Labels that stop coming, or take much longer, are found without a second variant; a short log knows nothing."""

import numpy as np
import pyarrow as pa
import pytest

from deployments.analysis.evidence_collector import EvidenceCollector
from deployments.analysis.validity.label_history import LabelHistory, label_history, log_e_fewer_labels
from deployments.protocol.arrow_columns import TIMESTAMP
from deployments.telemetry.prediction_log import prediction_rows
from tests.factories.deployments.predictions import label_table, prediction_batch
from tests.factories.deployments.tasks import BINARY

HOUR = 3_600_000_000
HISTORY = LabelHistory(within_us=10.0, share=0.6)


def logs(days: float, rows: int = 4_000, labeled: float = 0.6) -> tuple[pa.Table, pa.Table]:
    """Prediction and label log of a model whose labels take up to two hours, and end with its last row."""
    chance = np.random.default_rng(0)
    at = np.linspace(0.0, days * 24 * HOUR, rows).astype(np.int64)
    received = at + (chance.random(rows) * 2 * HOUR).astype(np.int64)
    sent = (chance.random(rows) < labeled) & (received < at.max())
    ids = np.array([f"q{i}" for i in range(rows)], object)
    return (
        pa.table({"id": list(ids), "at": pa.array(at).cast(TIMESTAMP), "rollout": pa.nulls(rows, pa.string())}),
        pa.table({"id": pa.array(ids[sent], pa.string()), "received": pa.array(received[sent]).cast(TIMESTAMP)}),
    )


def test_label_history_of_more_than_a_week_knows_share_and_delay() -> None:
    history = label_history(*logs(days=9))
    assert history is not None
    assert history.within_us / HOUR == pytest.approx(3.0, abs=0.1)
    assert history.share == pytest.approx(0.6, abs=0.03)


@pytest.mark.parametrize(("days", "rows", "labeled"), [(6, 4_000, 0.6), (9, 500, 0.6), (9, 4_000, 0.01), (9, 9, 0.0)])
def test_label_history_of_a_short_or_unlabeled_log_knows_nothing(days: float, rows: int, labeled: float) -> None:
    assert label_history(*logs(days, rows, labeled)) is None


def test_log_e_fewer_labels_counts_rows_that_are_old_enough() -> None:
    at = np.arange(200.0)
    assert log_e_fewer_labels(HISTORY, at, np.full(200, np.nan), 1.0) > 30.0
    assert log_e_fewer_labels(HISTORY, at, at + 11.0, 1.0) > 30.0
    assert log_e_fewer_labels(HISTORY, at, np.where(at % 2.0, at + 5.0, np.nan), 1.0) < 0.0
    assert log_e_fewer_labels(HISTORY, at[:9], np.full(9, np.nan), 1.0) == 0.0


def test_evidence_of_a_rollout_without_labels_is_compared_with_rows_from_before() -> None:
    predictions, labels = logs(days=9)
    start = 10 * 24 * HOUR
    batches = [prediction_batch(f"r{i}", at_us=start + i * HOUR // 20) for i in range(200)]
    rollout = prediction_rows(batches, "b")
    collector = EvidenceCollector("r", ("2",))
    collector.add_predictions(rollout)
    log = pa.concat_tables([predictions, rollout.select(predictions.column_names)], promote_options="permissive")
    collector.set_history(log, labels)
    evidence = collector.evidence(BINARY)["2"].validity
    assert evidence is not None
    assert evidence.log_e_fewer_labels > 10.0
    collector.add_labels(label_table({f"r{i}": 1.0 for i in range(0, 200, 2)}, start))
    evidence = collector.evidence(BINARY)["2"].validity
    assert evidence is not None
    assert evidence.log_e_fewer_labels < 0.0
