"""Labels that people give to served rows, and the one label that follows for each row. Pure.

An annotation is one labeler's label of one row. A labeler's newest annotation of a row counts. The effective label of a
row is the label that most labelers give; of labels with as many votes, the one that was given first. For a regression
it is the median (docs/decisions/0076-labels-by-hand.md).
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from cluster.values import TaskKind

LABELER, AT = "labeler", "at"
ANNOTATIONS_SCHEMA = pa.schema(
    {"id": pa.string(), "label": pa.float64(), LABELER: pa.string(), AT: pa.timestamp("us", "UTC")}
)
"""Schema of a model's annotations: row id, label as cluster.values.Task says, who gave it, and when."""


def no_annotations() -> pl.DataFrame:
    """Return a frame of annotations without rows."""
    return pl.DataFrame(ANNOTATIONS_SCHEMA.empty_table())


def current_annotations(annotations: pl.DataFrame) -> pl.DataFrame:
    """Return each labeler's newest annotation of each row, in order of time."""
    return annotations.sort(AT, maintain_order=True).unique(("id", LABELER), keep="last", maintain_order=True)


def changed_annotations(annotations: pl.DataFrame, given: pl.DataFrame) -> pl.DataFrame:
    """Return those of ``given`` that are not what their labeler said last."""
    current = current_annotations(annotations).select("id", LABELER, "label")
    return given.join(current, on=["id", LABELER, "label"], how="anti", maintain_order="left")


def effective_labels(annotations: pl.DataFrame, kind: TaskKind) -> pl.DataFrame:
    """Decide the label of each row.

    Args:
        annotations: All annotations, with the columns of ANNOTATIONS_SCHEMA.
        kind: Kind of the model's task: a regression takes the median, every other task the most frequent label.

    Returns:
        A row for each id: ``id``, ``label``, and ``at``, the time of its newest annotation.
    """
    current = current_annotations(annotations)
    newest = annotations.group_by("id", maintain_order=True).agg(pl.col(AT).max())
    if kind == "regression":
        decided = current.group_by("id").agg(pl.col("label").median())
    else:
        votes = current.group_by("id", "label").agg(pl.len().alias("votes"), pl.col(AT).min().alias("first"))
        ranked = votes.sort("votes", "first", "label", descending=[True, False, False])
        decided = ranked.unique("id", keep="first", maintain_order=True)
    return newest.join(decided.select("id", "label"), on="id", maintain_order="left").select("id", "label", AT)


def labels_to_log(effective: pl.DataFrame, logged: pl.DataFrame) -> pl.DataFrame:
    """Choose the effective labels that the label log lacks.

    Args:
        effective: As ``effective_labels`` returns them.
        logged: ``id``, ``label`` and ``received`` of the label log.

    Returns:
        ``id`` and ``label`` of the rows without a logged label, and of those whose newest logged label differs and came
        before the newest annotation: a label that arrived later is a correction, and stays.
    """
    newest = logged.sort("received", maintain_order=True).unique("id", keep="last")
    beside = effective.join(newest, on="id", how="left", suffix="_logged", maintain_order="left")
    is_new = pl.col("label_logged").is_null()
    is_changed = (pl.col("label") != pl.col("label_logged")) & (pl.col("received") < pl.col(AT))
    return beside.filter(is_new | is_changed).select("id", "label")


def label_matrix(annotations: pl.DataFrame) -> tuple[np.ndarray, tuple[str, ...]]:
    """Arrange the current annotations by row and labeler.

    Returns:
        Labels, [rows, labelers], NaN where a labeler gave none; and the names of the labelers, in order.
    """
    current = current_annotations(annotations)
    labelers = tuple(current.get_column(LABELER).unique().sort())
    rows, columns = (current.get_column(name).rank("dense").to_numpy() - 1 for name in ("id", LABELER))
    matrix = np.full((current.get_column("id").n_unique(), len(labelers)), np.nan)
    matrix[rows, columns] = current.get_column("label")
    return matrix, labelers
