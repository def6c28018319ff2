"""What is shown of labeling functions, and the weak labels that follow."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from cluster.errors import DataError
from features.labeling.label_model import UNKNOWN
from features.labeling.labeling_functions import ABSTAIN, WeakLabels, labeling_function
from features.labeling.weak_estimate import HEAD, Estimated, WeakEstimate, count_votes, estimate_weak_labels
from tests.factories.errors import raises
from tests.factories.features.votes import BINARY, draw_classes, draw_votes, functions_of, vote_table

NAMES = ("f0", "f1", "f2")


def _estimate(table: pl.DataFrame, weak: WeakLabels | None = None) -> Estimated:
    weak = weak or functions_of(table)
    labeled = pl.col("label") != UNKNOWN
    parts = [
        count_votes(weak, BINARY, table.filter(labeled), "label"),
        count_votes(weak, BINARY, table.filter(~labeled)),
    ]
    return estimate_weak_labels(weak, BINARY, parts)


def _table(seed: int = 0, true: int = 100, rows: int = 4_000) -> pl.DataFrame:
    classes = draw_classes(rows, (0.6, 0.4), seed)
    return vote_table(draw_votes(classes, (0.7, 0.8, 0.9), (0.6, 0.5, 0.4), seed), classes, true)


def test_estimate_small_table_has_the_shares_of_votes_by_hand() -> None:
    votes = np.array([[1, 1, ABSTAIN], [1, 0, ABSTAIN], [0, ABSTAIN, ABSTAIN], [ABSTAIN] * 3] * 20)
    table = vote_table(votes, np.array([1, 1, 1, 0] * 20), true=80)
    extra = pl.DataFrame({"v0": [1.0], "v1": [None], "v2": [None], "label": [UNKNOWN]}, schema=table.schema)
    estimate = _estimate(pl.concat([table, extra])).estimate
    first, second, third = estimate.functions
    assert (first.coverage, first.overlap, first.conflict) == pytest.approx((61 / 81, 40 / 81, 20 / 81))
    assert (first.true_votes, first.true_accuracy) == (60, pytest.approx(2 / 3))
    assert (second.coverage, second.true_accuracy) == (pytest.approx(40 / 81), 0.5)
    assert (third.coverage, third.accuracy, third.true_accuracy) == (0.0, None, None)
    assert (estimate.rows, estimate.unlabeled, estimate.true_rows) == (1, 1, 80)


def test_estimate_rows_in_another_order_and_in_other_blocks_is_the_same() -> None:
    table = _table()
    weak, shuffled = functions_of(table), table.sample(fraction=1.0, shuffle=True, seed=1)
    blocks = [shuffled[:1_000], shuffled[1_000:]]
    counted = []
    for block in blocks:
        for label, part in (("label", block.filter(pl.col("label") >= 0)), ("", block.filter(pl.col("label") < 0))):
            counted.append(count_votes(weak, BINARY, part, label))
    assert estimate_weak_labels(weak, BINARY, counted).estimate == _estimate(table).estimate


def test_estimate_function_that_always_abstains_changes_no_posterior() -> None:
    table = _table()
    without = _estimate(table)
    silent = _estimate(table.with_columns(v3=pl.lit(None, pl.Float64)))
    assert silent.posteriors.drop("f3").equals(without.posteriors)
    assert silent.estimate.functions[:3] == without.estimate.functions
    assert ["never votes" in warning for warning in silent.estimate.warnings()] == [True]


def test_posteriors_are_probabilities_of_the_rows_with_votes() -> None:
    posteriors = _estimate(_table()).posteriors
    total = posteriors["posterior"].list.sum().to_numpy()
    assert total == pytest.approx(np.ones(len(total)))
    assert posteriors.filter(pl.all_horizontal(pl.col(NAMES) == ABSTAIN)).is_empty()
    agreed = posteriors.filter(pl.all_horizontal(pl.col(NAMES) == 1))["posterior"][0]
    assert agreed[1] > 0.9


def test_estimate_function_worse_than_chance_is_told() -> None:
    classes = draw_classes(4_000, (0.5, 0.5), 3)
    table = vote_table(draw_votes(classes, (0.8, 0.8, 0.35), (0.6, 0.6, 0.6), 3), classes, true=100)
    estimate = _estimate(table).estimate
    assert [f.is_worse_than_chance for f in estimate.functions] == [False, False, True]
    assert [warning.split()[0] for warning in estimate.warnings()] == ["f2"]


def test_estimate_copied_function_is_dependent_on_its_original_alone() -> None:
    classes = draw_classes(5_000, (0.6, 0.4), 4)
    votes = draw_votes(classes, (0.7, 0.8, 0.75, 0.7), (0.6, 0.5, 0.4, 0.5), 4)
    copied = np.where(np.random.default_rng(4).random(len(classes)) < 0.8, votes[:, 0], votes[:, 3])
    table = vote_table(np.column_stack([votes[:, :3], copied]), classes, true=1_000)
    estimate = _estimate(table).estimate
    assert [pair.functions for pair in estimate.dependences][:1] == [("f0", "f3")]
    assert estimate.unlabeled_weight < 1
    assert any(warning.startswith("f0 and f3 ") for warning in estimate.warnings())


def test_estimate_of_copies_with_true_labels_follows_these() -> None:
    classes = draw_classes(5_000, (0.7, 0.3), 8)
    votes = draw_votes(classes, (0.62, 0.7, 0.75, 0.75, 0.75), (0.5, 0.3, 0.6, 0.4, 0.2), 8)
    copied = np.where(np.random.default_rng(8).random((5_000, 2)) < 0.8, votes[:, 2:3], votes[:, 3:])
    blind, checked = (
        _estimate(vote_table(np.column_stack([votes[:, :3], copied]), classes, true)).estimate for true in (0, 400)
    )
    assert [function.accuracy for function in checked.functions] == pytest.approx([0.62, 0.7] + [0.75] * 3, abs=0.12)
    assert min(function.accuracy or 0.0 for function in blind.functions[2:]) > 0.85
    assert ["copy each other" in warning for warning in blind.warnings()] == [True]


@pytest.mark.parametrize("seed", range(5))
def test_estimate_independent_functions_that_follow_true_labels_have_no_dependence(seed: int) -> None:
    classes = draw_classes(3_000, (0.6, 0.4), seed)
    votes = draw_votes(classes, (0.7, 0.8), (0.6, 0.5), seed)
    assert _estimate(vote_table(votes, classes, true=200)).estimate.dependences == ()


@pytest.mark.parametrize("seed", range(5))
def test_estimate_independent_functions_have_no_dependence(seed: int) -> None:
    assert _estimate(_table(seed)).estimate.dependences == ()


@pytest.mark.parametrize(("functions", "true"), [(2, 0), (2, 5), (1, 0)])
def test_estimate_fewer_than_three_functions_without_true_labels_is_refused(functions: int, true: int) -> None:
    table = _table(true=true)
    weak = WeakLabels(functions=functions_of(table).functions[:functions])
    with raises(DataError, "data.weak_labels_unidentified", functions=list(NAMES[:functions]), rows=10):
        _estimate(table, weak)


def test_estimate_function_that_overlaps_no_other_two_is_named() -> None:
    table = _table(true=0).with_columns(v3=pl.when(pl.all_horizontal(pl.col("v0", "v1", "v2").is_null())).then(1.0))
    with raises(DataError, "data.weak_labels_unidentified", functions=["f3"]):
        _estimate(table)


@pytest.mark.parametrize("functions", [1, 2])
def test_estimate_few_functions_with_true_labels_follows_them(functions: int) -> None:
    table = _table(true=1_000)
    estimate = _estimate(table, WeakLabels(functions=functions_of(table).functions[:functions])).estimate
    for function in estimate.functions:
        assert function.accuracy == pytest.approx(function.true_accuracy, abs=0.05)


def test_estimate_without_any_vote_is_refused() -> None:
    weak = WeakLabels(functions=(labeling_function("f0", pl.lit(None)),))
    with raises(DataError, "data.weak_labels_no_votes", rows=3_900, functions=1):
        _estimate(_table(), weak)


def test_estimate_lines_have_a_row_for_each_function_and_is_read_back() -> None:
    estimate = _estimate(_table()).estimate
    head, *rows = list(estimate.lines())[:4]
    assert head.split()[:4] == list(HEAD[:4])
    assert [row.split()[0] for row in rows] == list(NAMES)
    assert WeakEstimate.from_stored(estimate.model_dump_json()) == estimate
    assert estimate.content_hash[:8] in str(estimate)
