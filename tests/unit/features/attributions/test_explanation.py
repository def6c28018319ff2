"""Reasons of a score, in the project's words."""

from __future__ import annotations

import numpy as np
import pytest

from features.attributions.contributions import Contributions
from features.attributions.explanation import MAX_REASONS, choose_reasons

FEATURES = ("amount", "age", "hour", "city", "shop", "day")


def test_reasons_are_on_the_side_of_the_score_largest_first_and_in_the_words_given() -> None:
    contributions = Contributions(0.2, np.array([0.1, -0.4, 0.5, 0.0, 0.05, 0.01]))
    reasons = choose_reasons(contributions, FEATURES, {"amount": "Amount far above usual"})
    assert [(r.feature, r.text, r.contribution) for r in reasons] == [
        ("hour", "hour", 0.5), ("amount", "Amount far above usual", 0.1), ("shop", "shop", 0.05), ("day", "day", 0.01)
    ]  # fmt: skip


def test_reasons_of_a_score_below_the_base_lower_it() -> None:
    contributions = Contributions(0.9, np.array([0.1, -0.4, -0.5, 0.0, 0.05, 0.01]))
    assert [r.feature for r in choose_reasons(contributions, FEATURES, {})] == ["hour", "age"]


def test_contribution_within_two_standard_errors_is_no_reason() -> None:
    contributions = Contributions(0.0, np.array([0.3, 0.2, 0.1]), np.array([0.16, 0.09, 0.01]))
    assert [r.feature for r in choose_reasons(contributions, FEATURES[:3], {})] == ["age", "hour"]


@pytest.mark.parametrize("parts", [np.ones(6), -np.ones(6)])
def test_reasons_are_at_most_four(parts: np.ndarray) -> None:
    assert len(choose_reasons(Contributions(0.0, parts), FEATURES, {})) == MAX_REASONS


def test_row_at_the_base_has_no_reasons() -> None:
    assert choose_reasons(Contributions(0.0, np.zeros(6)), FEATURES, {}) == ()
