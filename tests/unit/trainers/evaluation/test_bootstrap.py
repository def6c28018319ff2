"""Intervals cover the true metric at their confidence."""

from __future__ import annotations

import numpy as np
import pytest

from tests.factories.trainers.frames import TASKS
from trainers import metrics
from trainers.evaluation import bootstrap


def _rows(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    chance = random.beta(2, 3, rows)
    return chance, (random.random(rows) < chance).astype(float)


@pytest.mark.long
def test_confidence_intervals_cover_at_error_rate() -> None:
    """Confidence 0.9 over 150 samples: no metric that is a mean misses more than 0.1 and four standard errors."""
    task = TASKS["binary"]
    true = metrics.evaluate(task, *_rows(400_000, 1_000))
    missed = dict.fromkeys(("auc", "log_loss", "brier", "accuracy"), 0)
    for seed in range(150):
        intervals = bootstrap.confidence_intervals(task, *_rows(300, seed), alpha=0.1, resamples=100, seed=1)
        for name in missed:
            missed[name] += not intervals[name].low <= true[name] <= intervals[name].high
    assert all(0 < count / 150 <= 0.1 + 4 * np.sqrt(0.1 * 0.9 / 150) for count in missed.values()), missed


def test_resample_gives_all_metrics_same_rows() -> None:
    samples = bootstrap.resample({"one": lambda w: float(w[0]), "same": lambda w: float(w[0])}, 50, 30, 0)  # type: ignore[index]
    assert np.array_equal(samples["one"], samples["same"])
    assert len(np.unique(samples["one"])) > 2
