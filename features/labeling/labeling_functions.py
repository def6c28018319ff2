"""Labeling functions: expressions that give a row a class, or abstain. Pure.

Their votes are combined to weak labels (label_model.py), which train and never evaluate.
"""

from __future__ import annotations

import math
from typing import Self

import polars as pl
from pydantic import model_validator

from cluster.errors import DataError, ProjectError
from cluster.fingerprint import json_fingerprint
from cluster.values import Frozen, Task
from features.definitions import require_unique
from features.row_expressions import RowExpression, parse_expression

ABSTAIN = -1
"""The vote of a function that says nothing about a row."""
_VOTE, _COLUMN = pl.Int16, "__vote"


class LabelingFunction(RowExpression):
    """An expression over features of the same row that gives a class of the task, or null to abstain."""


class WeakLabels(Frozen):
    """Labeling functions whose combined votes label the training rows that have no label."""

    functions: tuple[LabelingFunction, ...]
    weight: float = 1.0
    """Weight of a row with a weak label in training; a row with a true label has weight 1."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        require_unique((function.name for function in self.functions), "the labeling functions")
        if not self.functions or not (math.isfinite(self.weight) and self.weight > 0):
            raise ProjectError("project.weak_labels_empty", functions=len(self.functions), weight=self.weight)
        return self

    @property
    def input_columns(self) -> tuple[str, ...]:
        """Columns that the functions read, each once."""
        return tuple(dict.fromkeys(name for function in self.functions for name in function.input_columns))

    @property
    def content_hash(self) -> str:
        """SHA-256 of the functions and the weight."""
        return json_fingerprint(self.model_dump(mode="json"))


def labeling_function(name: str, expression: pl.Expr) -> LabelingFunction:
    """Declare a labeling function.

    Args:
        name: Its name.
        expression: A class of the task for a row, by name or position, or null to abstain. Built-in Polars expressions
            over request columns and features of the row only.
    """
    return LabelingFunction(name=name, expression=expression.meta.serialize(format="json"))


def cast_votes(weak: WeakLabels, task: Task, rows: pl.DataFrame) -> pl.DataFrame:
    """Apply the labeling functions.

    Args:
        weak: The functions.
        task: The task.
        rows: Rows with the columns that the functions read.

    Returns:
        A column for each function, by its name: the index of a class, or ABSTAIN.

    Raises:
        DataError: A function fails, or gives what is no class of the task.
    """
    return pl.DataFrame({f.name: _cast(f, task, rows) for f in weak.functions})


def _cast(function: LabelingFunction, task: Task, rows: pl.DataFrame) -> pl.Series:
    names = list(task.classes)
    try:
        found = rows.with_columns(parse_expression(function.expression).alias(_COLUMN))[_COLUMN]
    except pl.exceptions.PolarsError as error:
        raise DataError("data.labeling_function", function=function.name, reason=str(error).splitlines()[0]) from error
    if found.dtype == pl.String:
        allowed = found.drop_nulls().is_in(names)
        votes = found.replace_strict(names, range(len(names)), default=None, return_dtype=_VOTE)
    else:
        number = found.cast(pl.Float64, strict=False)
        allowed = number.drop_nulls().is_in([float(k) for k in range(max(2, task.outputs))])
        votes = number.cast(_VOTE, strict=False)
    if not allowed.all() or found.null_count() != votes.null_count():
        reason = f"it gives {found.drop_nulls().filter(~allowed).first()!r}, which is no class of the task"
        raise DataError("data.labeling_function", function=function.name, reason=reason)
    return votes.fill_null(ABSTAIN).alias(function.name)
