"""Labels from ``/feedback``, joined with the logged predictions: a source like any other.

A row is an answered row with its label. Its key is the row id, its event time that of the answer, and it is known when
the label arrived. A further label of the same id with another value is a correction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl

from cluster.errors import DataError, ProjectError
from cluster.names import labels_table, predictions_table
from cluster.settings import load_settings
from features.builders import category, number, timestamp
from features.definitions import Column, FeatureSet
from features.sources.readers import Columns, SourceReader
from features.sources.source import Source
from features.types import POLARS_TYPES

if TYPE_CHECKING:
    import ray.data

LABEL, ANSWERED_AT, RECEIVED_AT = "label", "at", "received"
_NO_LABELS = ("data.no_feedback", "data.source_empty")
_LOGGED = ("id", ANSWERED_AT, "as_of", "version", "features")


def feedback(model: str, features: FeatureSet, name: str = "feedback") -> Source:
    """Declare the labels that a model has received, with the features as they were served, as a source.

    Its columns are ``id``, ``label``, ``at`` (when the row was answered), ``received`` (when its label arrived),
    ``as_of`` (the time of its features), ``version`` (that answered), and the columns of the feature set. The label of
    a multiclass model is the position of the class.

    Args:
        model: Name of the model: of this project, or of another one with the same stores.
        features: The feature set whose columns to read; a feature that was not logged is null.
        name: Name of the source.

    Raises:
        ProjectError: The feature set has one of the names above.
    """
    own = (*category("id", "version"), *number(LABEL), *timestamp(ANSWERED_AT, RECEIVED_AT, "as_of"))
    return Source(
        name=name,
        read=SourceReader(f"labels of model {model!r}", lambda columns: _read(model, columns)),
        key=("id",),
        columns=(*own, *features.available_columns),
        event_time=ANSWERED_AT,
        known_at=RECEIVED_AT,
    )


def with_feedback(source: Source, model: str, features: FeatureSet, columns: Mapping[str, str | pl.Expr]) -> Source:
    """Add the labels that a model has received to the rows of a source of examples.

    The source keeps its name and its rules. Until the first label arrives, it has its own rows only. It should hold
    nothing but examples: a feature view on it would count served rows as events.

    Args:
        source: The examples that do not come from the model.
        model: Name of the model: of this project, or of another one with the same stores.
        features: The feature set that the model was served with.
        columns: By column of the source, what it is for a labeled row: a column of ``rl.feedback``, or a Polars
            expression over its columns. Features have their own names in both; other columns are null.

    Raises:
        ProjectError: The source or the labels lack a column, or key, event time or known-at time are not filled.
    """
    labels = feedback(model, features)
    filled = _filled_columns(source, labels, features, columns)

    def read(declared: Columns) -> ray.data.Dataset:
        rows = source.reader.open(declared)
        try:
            labeled = _labeled_rows(model, labels.columns)
        except DataError as error:
            if error.code not in _NO_LABELS:
                raise
            return rows
        return rows.union(_dataset(source_rows(labeled, filled, declared)))

    return replace(source, read=SourceReader(f"{source.reader.location} and labels of model {model!r}", read))


def source_rows(labeled: pl.DataFrame, filled: Mapping[str, pl.Expr], columns: Sequence[Column]) -> pl.DataFrame:
    """Write labeled rows as rows of another source.

    Args:
        labeled: Rows of ``rl.feedback``.
        filled: Expression over their columns, by column of the other source.
        columns: Columns of the other source; those without an expression are null.
    """
    return labeled.select(filled.get(c.name, pl.lit(None, POLARS_TYPES[c.kind])).alias(c.name) for c in columns)


def join_labels(predictions: Iterable[pl.DataFrame], labels: pl.DataFrame, columns: Sequence[Column]) -> pl.DataFrame:
    """Join labels with the rows that they are about.

    Args:
        predictions: Rows of the prediction log: id, at, as_of, version and features, a struct.
        labels: Rows of the label log: id, label and received.
        columns: The columns to return.

    Returns:
        A row for each label of a logged row, in the order of arrival; a label that repeats the one before it is left
        out.
    """
    ordered = labels.sort(RECEIVED_AT, maintain_order=True)
    changed = ordered.filter(
        pl.col(LABEL).ne_missing(pl.col(LABEL).shift()).over("id") | pl.col("id").is_first_distinct()
    )
    parts = [part.join(changed, on="id", how="semi") for part in predictions]
    if not parts:
        raise DataError("data.source_empty", source="predictions")
    answered = pl.concat(parts, how="diagonal_relaxed").unique("id", keep="first", maintain_order=True)
    rows = changed.join(answered, on="id", maintain_order="left")
    # Clocks of two replicas may differ: a label is never known before its answer.
    known = pl.max_horizontal(RECEIVED_AT, ANSWERED_AT).alias(RECEIVED_AT)
    served = rows.get_column("features").struct.unnest()
    own = rows.drop("features").with_columns(known)
    cells = {c.name: own.get_column(c.name) if c.name in own.columns else _served(served, c) for c in columns}
    return pl.DataFrame(cells)


def _filled_columns(
    source: Source, labels: Source, features: FeatureSet, columns: Mapping[str, str | pl.Expr]
) -> dict[str, pl.Expr]:
    """What the columns of a source are for a labeled row."""
    served = {c.name for c in features.available_columns} & set(source.column_names)
    given = {name: pl.col(value) if isinstance(value, str) else value for name, value in columns.items()}
    filled = {name: pl.col(name) for name in sorted(served)} | given
    inputs = {name for value in given.values() for name in value.meta.root_names()}
    wrong = [name for name in given if name not in source.column_names] + sorted(inputs - set(labels.column_names))
    missing = [name for name in (*source.key, source.event_time, source.known_at) if name not in filled]
    if wrong or missing:
        raise ProjectError("project.with_feedback", source=source.name, unknown=wrong, missing=missing)
    return filled


def _served(served: pl.DataFrame, column: Column) -> pl.Series:
    if column.name in served.columns:
        return served.get_column(column.name)
    return pl.Series(column.name, [None], POLARS_TYPES[column.kind]).new_from_index(0, served.height)


def _read(model: str, columns: Columns) -> ray.data.Dataset:
    return _dataset(_labeled_rows(model, columns))


def _dataset(rows: pl.DataFrame) -> ray.data.Dataset:
    import ray.data

    return ray.data.from_arrow(rows.to_arrow())


def _labeled_rows(model: str, columns: Columns) -> pl.DataFrame:
    from cluster.storage.tables import Tables

    tables = Tables(load_settings())
    log = tables.latest(predictions_table(model))
    if log is None or tables.latest(labels_table(model)) is None:
        raise DataError("data.no_feedback", model=model)
    labels = pl.DataFrame(tables.read(labels_table(model), columns=["id", LABEL, RECEIVED_AT]))
    parts = (pl.DataFrame(part.table(_LOGGED)) for part in tables.parts(log)[1])
    return join_labels(parts, labels, columns)
