"""Rows to label as CSV, and CSV with labels as annotations. Pure."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl

from cluster.errors import DataError
from cluster.values import Task
from features.types import LABEL
from rayloop.labeling.label_queue import FEATURES
from rayloop.labeling.label_values import label_names, parse_label

_FEATURE = "feature."
"""Prefix of the features' columns, so that none has the name of another column."""


def write_queue(queue: pl.DataFrame, path: Path) -> None:
    """Write the rows of the queue as CSV, with an empty column ``label`` to fill in.

    Args:
        queue: As ``read_queue`` returns it.
        path: The file; it is replaced.

    Raises:
        DataError: The file cannot be written.
    """
    served = queue.get_column(FEATURES).struct.unnest()
    flat = queue.drop(FEATURES).with_columns(pl.lit(None, pl.String).alias(LABEL))
    columns = [
        flat.select("id", LABEL, pl.exclude("id", LABEL)),
        served.select(_cells(c) for c in served.iter_columns()),
    ]
    try:
        pl.concat(columns, how="horizontal").write_csv(path)
    except OSError as error:
        raise DataError("data.label_file_unwritable", file=str(path), reason=type(error).__name__) from error


def read_labels(path: Path, task: Task) -> pl.DataFrame:
    """Read the labels of a file; rows with an empty label are left out.

    Args:
        path: A CSV file with columns ``id`` and ``label``; others are ignored.
        task: The model's task.

    Returns:
        ``id`` and ``label``, as the annotations have them.

    Raises:
        DataError: The file cannot be read, lacks a column, repeats an id, or has a label that is none of the task.
    """
    try:
        # Read as text: an id such as 007 is not the number 7.
        rows = pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError("data.label_file_unreadable", file=str(path), reason=reason) from error
    if missing := [name for name in ("id", LABEL) if name not in rows.columns]:
        raise DataError("data.label_file_columns", file=str(path), missing=missing)
    texts = rows.select("id", pl.col(LABEL).str.strip_chars()).with_row_index("line", 2)
    filled = texts.filter(pl.col(LABEL).fill_null("") != "")
    labels = [parse_label(text, task) for text in filled.get_column(LABEL)]
    _require_labels(path, filled, labels, task)
    repeated = filled.filter(pl.col("id").is_duplicated() | pl.col("id").is_null())
    if repeated.height:
        raise DataError("data.label_file_ids", file=str(path), id=repeated.item(0, "id"), line=repeated.item(0, "line"))
    return filled.select("id", pl.Series(LABEL, labels, pl.Float64))


def _require_labels(path: Path, filled: pl.DataFrame, labels: list[float | None], task: Task) -> None:
    for (line, _, text), label in zip(filled.iter_rows(), labels, strict=True):
        if label is None:
            expected = ", ".join(label_names(task)) or "a number"
            raise DataError("data.label_value", file=str(path), line=line, label=text, expected=expected)


def _cells(column: pl.Series) -> pl.Series:
    """A feature as a CSV has it; a tensor as JSON."""
    name = f"{_FEATURE}{column.name}"
    if not column.dtype.is_nested():
        return column.alias(name)
    return pl.Series(name, [None if cell is None else json.dumps(cell) for cell in column.to_list()], pl.String)
