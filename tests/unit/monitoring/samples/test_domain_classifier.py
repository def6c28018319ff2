"""The domain classifier: quiet on one source, awake to what no single column shows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cluster.errors import DataError
from monitoring.samples.domain_classifier import _auc, density_ratio, tell_apart

NAMES = ("a", "b", "c")


def test_false_alarms_come_at_the_asked_rate():
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found.append(tell_apart(rng.normal(size=(120, 3)), rng.normal(size=(100, 3)), NAMES, seed).p_value)
    assert sum(p <= 0.05 for p in found) <= stats.binom.ppf(1 - 1e-4, len(found), 0.05)
    assert np.median(found) < 0.9


def test_a_change_that_no_column_shows_alone_is_found_and_its_columns_come_first():
    rng = np.random.default_rng(1)
    reference, live = rng.normal(size=(1_500, 3)), rng.normal(size=(1_500, 3))
    live[:, 2] = np.sign(live[:, 0]) * np.abs(live[:, 2])
    found = tell_apart(reference, live, NAMES)
    assert found.p_value < 1e-6
    assert found.low > 0.6
    assert {name for name, _ in found.ranked[:2]} == {"a", "c"}
    assert sum(share for _, share in found.ranked) == pytest.approx(1)


def test_missing_and_infinite_values_are_data_not_trouble():
    rng = np.random.default_rng(2)
    reference, live = rng.normal(size=(300, 3)), rng.normal(size=(300, 3))
    live[:150, 1] = np.nan
    live[150:200, 1] = np.inf
    found = tell_apart(reference, live, NAMES)
    assert found.ranked[0][0] == "b"
    assert found.p_value < 1e-6


def test_auc_and_its_null_variance_agree_with_mann_and_whitney():
    rng = np.random.default_rng(3)
    scores, labels = rng.integers(0, 9, 80) / 9, np.repeat([0, 1], [50, 30])
    auc, null, variance = _auc(scores, labels)
    live, reference = scores[labels == 1], scores[labels == 0]
    test = stats.mannwhitneyu(live, reference, alternative="greater", use_continuity=False, method="asymptotic")
    assert auc == pytest.approx(test.statistic / (30 * 50))
    assert stats.norm.sf((auc - 0.5) / np.sqrt(null)) == pytest.approx(test.pvalue)
    # DeLong's variance by its definition.
    psi = (live[:, None] > reference) + (live[:, None] == reference) / 2
    assert variance == pytest.approx(psi.mean(axis=1).var(ddof=1) / 30 + psi.mean(axis=0).var(ddof=1) / 50)


def test_density_ratios_move_the_reference_to_the_live_rows():
    rng = np.random.default_rng(4)
    reference, live = rng.normal(size=(4_000, 1)), rng.normal(0.7, 1, (4_000, 1))
    weights = density_ratio(reference, live)
    assert weights.mean() == pytest.approx(1)
    assert (weights * reference[:, 0]).mean() == pytest.approx(0.7, abs=0.12)


def test_too_few_rows_are_refused():
    with pytest.raises(DataError, match="5 of each"):
        tell_apart(np.zeros((4, 1)), np.zeros((9, 1)), ("a",))
