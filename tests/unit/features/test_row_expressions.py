"""Stored expressions compute a row's value from the same row; whatever could run code is refused before it is read."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import polars as pl
import pytest

from cluster.errors import ProjectError
from features.builders import derive
from features.row_expressions import parse_expression, require_row_expression
from tests.factories.errors import raises

A, B, AT, NAME, CELLS = (pl.col(name) for name in ("a", "b", "at", "name", "cells"))
FRAME = pl.DataFrame(
    {"a": [1.5, None, -2.0], "b": [2.0, 0.5, 3.0], "name": ["x y", "zoo", None], "cells": [[1.0], [2.0, 3.0], None]}
).with_columns(at=pl.datetime_range(pl.datetime(2024, 3, 30), pl.datetime(2024, 4, 1), "1d", time_zone="UTC"))
BY_ROW = [
    A * 2 + B / 3 - A**2 % 7,
    pl.when(A > 1).then(B).otherwise(None),
    A.fill_null(0).clip(0, 1).round(1).abs().sqrt(),
    A.log1p().exp().sin().floor().sign(),
    -A.fill_nan(None),
    pl.max_horizontal(A, B) + pl.sum_horizontal(A, B) + pl.coalesce(A, B),
    A.is_null() & ~B.is_between(0, 1) | NAME.is_in(["zoo", "x y"]),
    A.cast(pl.Int64, strict=False).cast(pl.Duration("ms")),
    NAME.str.to_uppercase().str.slice(0, 2),
    NAME.str.contains("o+") | NAME.str.starts_with("x"),
    pl.concat_str(NAME, pl.format("{}-{}", A, B)).str.len_chars(),
    NAME.replace_strict({"zoo": 1}, default=0),
    NAME.hash(seed=3),
    AT.dt.convert_time_zone("Europe/Berlin").dt.hour(),
    (AT - timedelta(days=1) - AT).dt.total_seconds(),
    AT.dt.truncate("1w").dt.strftime("%Y"),
    CELLS.list.sum() + CELLS.list.len(),
    pl.any_horizontal(A > 1, B > 1),
    pl.lit("x"),
]


@pytest.mark.parametrize("expression", BY_ROW, ids=str)
def test_expression_by_row_is_accepted_and_read_as_it_was(expression: pl.Expr) -> None:
    text = expression.meta.serialize(format="json")
    require_row_expression(text)
    assert FRAME.select(parse_expression(text)).equals(FRAME.select(expression), null_equal=True)


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        (A.mean(), "Agg"),
        (A - A.shift(1), "Shift"),
        (A.sum().over("b"), "Over"),
        (A.rank(), "Rank"),
        (A.cum_sum(), "CumSum"),
        ((A > 1).any(), "Any"),
        ((A > 1).all(), "All"),
        (A.is_unique(), "IsUnique"),
        (A.is_duplicated(), "IsDuplicated"),
        (A.is_first_distinct(), "IsFirstDistinct"),
        (A.is_last_distinct(), "IsLastDistinct"),
        (NAME.str.join(","), "ConcatVertical"),
        (A.cast(pl.Int64).bitwise_and(), "And"),
        (A.cast(pl.Int64).bitwise_or(), "Or"),
        (A.cast(pl.Int64).bitwise_xor(), "Xor"),
        (CELLS.list.eval(pl.element() + 1), "Eval"),
        (pl.struct(A, B), "AsStruct"),
        (pl.when(A.max() > 1).then(1), "Agg"),
        (A.name.prefix("x"), "RenameAlias"),
        (pl.all(), "Selector"),
    ],
    ids=str,
)
def test_expression_over_other_rows_or_columns_is_refused(expression: pl.Expr, part: str) -> None:
    with raises(ProjectError, "project.derived_not_by_row", part=part):
        derive("bad", expression)


def test_python_function_is_refused() -> None:
    for expression in (A.map_elements(lambda a: a, return_dtype=pl.Float64), A.map_batches(lambda a: a)):
        with raises(ProjectError, "project.derived_calls_python"):
            derive("bad", expression + 1)


PLUGIN = {"FfiPlugin": {"flags": 0, "lib": "/tmp/lib.so", "symbol": "run", "kwargs": []}}
CALL = {"Function": {"input": [{"Column": "a"}], "function": PLUGIN}}
TYPE_OF_CALL = {"OfExpr": CALL}


@pytest.mark.parametrize(
    ("node", "part"),
    [
        (CALL, "FfiPlugin"),
        ({"Alias": [CALL, "b"]}, "FfiPlugin"),
        ({"BinaryExpr": {"left": {"Column": "a"}, "op": "Plus", "right": CALL}}, "FfiPlugin"),
        ({"Cast": {"expr": {"Column": "a"}, "dtype": TYPE_OF_CALL, "options": "Strict"}}, "OfExpr"),
        ({"Cast": {"expr": CALL, "dtype": {"Literal": "Float64"}, "options": "Strict"}}, "FfiPlugin"),
        ({"Function": {"input": [], "function": {"StringExpr": {"Strptime": [TYPE_OF_CALL, {}]}}}}, "OfExpr"),
        ({"Function": {"input": [CALL], "function": "Abs"}}, "FfiPlugin"),
        ({"Function": {"input": [], "function": {"Abs": PLUGIN}}}, "FfiPlugin"),
        ({"Function": {"input": [], "function": {"ListExpr": {"ToStruct": None}}}}, "ToStruct"),
        ({"Function": {"input": [], "function": "Abs", "options": {}}}, "Function"),
        ({"Column": "a", "Function": CALL["Function"]}, "Column"),
        ({"SubPlan": [{"Scan": {}}, []]}, "SubPlan"),
        ({"Literal": {"Object": []}}, "Object"),
        ("Wildcard", "Wildcard"),
        ({}, "{}"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_part_that_is_not_on_the_list_is_refused_wherever_it_is(node: Any, part: str) -> None:
    with raises(ProjectError, "project.derived_not_by_row", part=part):
        require_row_expression(json.dumps(node))
