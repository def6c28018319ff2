"""Labeling functions as projects declare them, and their votes."""

from __future__ import annotations

import polars as pl
import pytest

from cluster.errors import DataError, ProjectError
from cluster.values import Task
from features.labeling.labeling_functions import ABSTAIN, WeakLabels, cast_votes, labeling_function
from tests.factories.errors import raises

BINARY = Task(kind="binary", label="y")
ANIMALS = Task(kind="multiclass", label="animal", classes=("cat", "dog", "owl"))


def _votes(expression: pl.Expr, rows: dict[str, list[object]], task: Task = BINARY) -> list[int]:
    return cast_votes(WeakLabels(functions=(labeling_function("f", expression),)), task, pl.DataFrame(rows))[
        "f"
    ].to_list()


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (pl.when(pl.col("x") > 2).then(1), [ABSTAIN, 1, ABSTAIN]),
        (pl.when(pl.col("x") < 2).then(0.0), [0, ABSTAIN, ABSTAIN]),
        (pl.col("x") > 2, [0, 1, ABSTAIN]),
        (pl.lit(1), [1, 1, 1]),
        (pl.lit(None), [ABSTAIN] * 3),
    ],
)
def test_votes_binary_expression_are_classes_or_abstain(expression: pl.Expr, expected: list[int]) -> None:
    assert _votes(expression, {"x": [1.0, 3.0, None]}) == expected


def test_votes_class_names_are_their_positions() -> None:
    assert _votes(pl.when(pl.col("barks")).then(pl.lit("dog")), {"barks": [True, False]}, ANIMALS) == [1, ABSTAIN]


@pytest.mark.parametrize(
    ("expression", "task"),
    [
        (pl.lit(2), BINARY),
        (pl.lit(0.5), BINARY),
        (pl.lit("fox"), ANIMALS),
        (pl.lit(3), ANIMALS),
        (pl.col("no"), BINARY),
    ],
)
def test_votes_that_are_no_class_are_refused(expression: pl.Expr, task: Task) -> None:
    with raises(DataError, "data.labeling_function", function="f"):
        _votes(expression, {"x": [1.0]}, task)


def test_function_that_looks_at_other_rows_is_refused() -> None:
    with raises(ProjectError, "project.derived_not_by_row"):
        labeling_function("f", pl.col("x").max())


def test_weak_labels_without_functions_or_weight_are_refused() -> None:
    with raises(ProjectError, "project.weak_labels_empty"):
        WeakLabels(functions=())
    with raises(ProjectError, "project.weak_labels_empty"):
        WeakLabels(functions=(labeling_function("f", pl.col("x")),), weight=0.0)
    with raises(ProjectError, "project.duplicate_names"):
        WeakLabels(functions=(labeling_function("f", pl.col("x")), labeling_function("f", pl.col("y"))))


def test_hash_of_weak_labels_depends_on_functions_and_weight() -> None:
    functions = (labeling_function("f", pl.col("x")), labeling_function("g", pl.col("x") + 1))
    others = [WeakLabels(functions=functions[:1]), WeakLabels(functions=functions, weight=0.5)]
    assert len({weak.content_hash for weak in (WeakLabels(functions=functions), *others)}) == 3
    assert WeakLabels(functions=functions).input_columns == ("x",)
