"""What the domain classifier compares, and how an AUC ranks among ordinary ones."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import DataError
from features.definitions import Column
from monitoring.analysis import multivariate_drift
from monitoring.analysis.multivariate_drift import MAX_RUNS, RUN_ROWS, auc_p_value, measure_multivariate_drift
from monitoring.drift_policy import DAY_S, DriftPolicy, LogAnalysisPolicy
from monitoring.samples.domain_classifier import Separability
from monitoring.samples.logged_rows import LoggedRows
from monitoring.statistics.null_distributions import MIN_RUNS
from tests.factories.errors import raises

COLUMNS = (Column(name="a", kind="number"),)
POLICY, SETTINGS = DriftPolicy(span=1, min_rows=100), LogAnalysisPolicy(sample=3_000)


def rows(days: int, per_day: int) -> LoggedRows:
    n = days * per_day
    zeros = np.zeros(n)
    times = np.repeat(np.arange(days) * DAY_S, per_day)
    return LoggedRows(pa.table({"a": zeros}), np.arange(n).astype(str), times, zeros, zeros)


@pytest.fixture
def compared(monkeypatch) -> list[tuple[int, int]]:
    """Rows of reference and live sample of each comparison; each AUC is 0.7."""
    sizes = []

    class Recorder:
        def __init__(self, reference: np.ndarray, live: np.ndarray) -> None:
            sizes.append((len(reference), len(live)))

        def test(self, names: tuple[str, ...]) -> Separability:
            return Separability(auc=0.7, low=0.6, high=0.8, p_value=0.001, ranked=((names[0], 1.0),))

    monkeypatch.setattr(multivariate_drift, "DomainClassifier", Recorder)
    return sizes


def test_live_run_is_compared_with_as_many_rows_as_the_ordinary_ones(compared):
    drift = measure_multivariate_drift(rows(30, 600), rows(1, 2_000), COLUMNS, POLICY, SETTINGS)
    assert compared[0] == (3_000, 2_000)
    assert set(compared[1:]) == {(4 * RUN_ROWS, RUN_ROWS)}
    assert len(compared) == 1 + MAX_RUNS + 1
    assert drift.ordinary == (0.7,) * MAX_RUNS
    # It is as separable as each ordinary run.
    assert (drift.p_value, drift.drifted) == (1.0, False)


def test_ordinary_runs_are_compared_once(compared):
    ordinary = (0.5,) * 19
    drift = measure_multivariate_drift(rows(30, 600), rows(1, 2_000), COLUMNS, POLICY, SETTINGS, ordinary)
    assert (len(compared), drift.ordinary) == (2, ordinary)
    assert (drift.p_value, drift.drifted) == (0.001, True)


def test_too_few_training_windows_leave_sampling(compared):
    policy = POLICY.model_copy(update={"span": 4})
    drift = measure_multivariate_drift(rows(3, 600), rows(1, 2_000), COLUMNS, policy, SETTINGS)
    assert (len(compared), drift.ordinary, drift.p_value) == (1, (), 0.001)


def test_rows_without_a_comparable_column_are_refused():
    with raises(DataError, "data.no_comparable_column"):
        measure_multivariate_drift(rows(3, 600), rows(1, 600), (), POLICY, SETTINGS)


def test_auc_p_value_is_a_rank_and_a_tail_beyond():
    assert auc_p_value(0.9, (0.5,) * (MIN_RUNS - 1)) == 0.0
    ordinary = (0.5,) * 19
    assert auc_p_value(0.5, ordinary) == 1.0
    assert auc_p_value(0.501, ordinary) == pytest.approx(1 / 20)
    # Ten times the smallest scale of the tail, which has 9 of the 19.
    assert auc_p_value(0.55, ordinary) == pytest.approx(0.5 * (1 + 10 / 9) ** -9)
