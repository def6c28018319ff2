"""The generated histories of the benchmark of evidence have the truth that they claim, and show the effects."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from benchmarks.evidence import leak
from cluster.values import Task
from features.offline.training_frame import LABEL, LABEL_KNOWN_AT
from features.types import AS_OF
from trainers import metrics


def test_best_auc_is_that_of_the_known_quantity():
    rng = np.random.default_rng(0)
    known = rng.normal(size=200_000)
    labels = (leak.KNOWN_WEIGHT * known + rng.normal(size=len(known)) > 0).astype(float)
    measured = metrics.prepare(Task(kind="binary", label="positive"), "auc", known, labels)(None)
    assert leak.best_auc() == pytest.approx(measured, abs=0.005)


def test_history_has_labels_that_are_known_after_91_days_and_shared_only_until_then():
    history = leak.history(0, customers=2_000).sort("customer", AS_OF)
    assert (history[LABEL_KNOWN_AT] - history[AS_OF]).unique().to_list() == [timedelta(days=91)]
    labels = history[LABEL].to_numpy().reshape(2_000, -1)
    near, far = (np.corrcoef(labels[:, 0], labels[:, weeks])[0, 1] for weeks in (1, leak.DELAY_WEEKS))
    assert near > 0.3
    assert abs(far) < 0.08
    assert history.select(pl.col("customer").n_unique()).item() == 2_000


def test_measure_of_training_rows_with_unknown_labels_exceeds_what_is_possible():
    leaking, purged = leak.measure(0, 500, print)
    assert leaking.gate.value - leaking.truth > 0.05
    assert not leaking.covered
    assert purged.covered
    assert purged.truth <= leak.best_auc()
