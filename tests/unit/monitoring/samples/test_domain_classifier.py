"""The domain classifier: silent on one source, sensitive to what no single column shows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cluster.errors import DataError
from monitoring.samples.domain_classifier import DomainClassifier, auc_with_variances
from tests.factories.errors import raises

NAMES = ("a", "b", "c")


@pytest.mark.long
def test_classifier_keeps_the_rate_of_false_alarms():
    p_values = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        p_values.append(
            DomainClassifier(rng.normal(size=(120, 3)), rng.normal(size=(100, 3)), seed).test(NAMES).p_value
        )
    assert sum(p <= 0.05 for p in p_values) <= stats.binom.ppf(1 - 1e-4, len(p_values), 0.05)
    assert np.median(p_values) < 0.9


def test_change_of_two_columns_together_is_found_and_they_rank_first():
    rng = np.random.default_rng(1)
    reference, live = rng.normal(size=(1_500, 3)), rng.normal(size=(1_500, 3))
    live[:, 2] = np.sign(live[:, 0]) * np.abs(live[:, 2])
    result = DomainClassifier(reference, live).test(NAMES)
    assert result.p_value < 1e-6
    assert result.low > 0.6
    assert {name for name, _ in result.ranked[:2]} == {"a", "c"}
    assert sum(share for _, share in result.ranked) == pytest.approx(1)


def test_missing_and_infinite_values_are_accepted():
    rng = np.random.default_rng(2)
    reference, live = rng.normal(size=(300, 3)), rng.normal(size=(300, 3))
    live[:150, 1] = np.nan
    live[150:200, 1] = np.inf
    result = DomainClassifier(reference, live).test(NAMES)
    assert result.ranked[0][0] == "b"
    assert result.p_value < 1e-6


def test_auc_and_variances_agree_with_mann_whitney_and_delong():
    rng = np.random.default_rng(3)
    scores, labels = rng.integers(0, 9, 80) / 9, np.repeat([0, 1], [50, 30])
    auc, null, variance = auc_with_variances(scores, labels)
    live, reference = scores[labels == 1], scores[labels == 0]
    test = stats.mannwhitneyu(live, reference, alternative="greater", use_continuity=False, method="asymptotic")
    assert auc == pytest.approx(test.statistic / (30 * 50))
    assert stats.norm.sf((auc - 0.5) / np.sqrt(null)) == pytest.approx(test.pvalue)
    # DeLong's variance by its definition.
    psi = (live[:, None] > reference) + (live[:, None] == reference) / 2
    assert variance == pytest.approx(psi.mean(axis=1).var(ddof=1) / 30 + psi.mean(axis=0).var(ddof=1) / 50)


def test_density_ratio_moves_the_reference_to_the_live_rows():
    rng = np.random.default_rng(4)
    reference, live = rng.normal(size=(4_000, 1)), rng.normal(0.7, 1, (4_000, 1))
    weights = DomainClassifier(reference, live).density_ratio()
    assert weights.mean() == pytest.approx(1)
    assert (weights * reference[:, 0]).mean() == pytest.approx(0.7, abs=0.12)


def test_too_few_rows_are_refused():
    with raises(DataError, "data.too_few_rows_to_compare", reference=4, live=9):
        DomainClassifier(np.zeros((4, 1)), np.zeros((9, 1)))


@pytest.mark.parametrize("labels", [[0, 0, 0, 1], [1, 1, 1, 0]])
def test_single_row_of_a_sample_adds_no_variance(labels):
    auc, null, variance = auc_with_variances(np.array([1.0, 2.0, 4.0, 3.0]), np.array(labels))
    # Two of three rows are below the single one; its rank is uniform on 0 to 3 of 3 when labels carry no information.
    assert auc == pytest.approx(2 / 3 if labels[3] else 1 / 3)
    assert null == pytest.approx(5 / 36)
    assert variance == pytest.approx(np.var([1, 1, 0], ddof=1) / 3)
