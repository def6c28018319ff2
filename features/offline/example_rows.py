"""Which rows of a source are examples, with their labels, times and request-time features. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from cluster.errors import DataError
from cluster.values import Task
from features.definitions import FeatureSet
from features.derived_columns import request_features
from features.outcomes import LabelWithin, event_keys
from features.split import Split, group_expr
from features.types import AS_OF, ID, INSTANT, KNOWN_FROM, LABEL, LABEL_KNOWN_AT

if TYPE_CHECKING:
    # Its readers import Ray.
    from features.sources.source import Examples

_PLACE = "__place"


class CorrectionRows(NamedTuple):
    """The corrections of a source."""

    key: tuple[str, ...]
    """Columns that identify a row."""
    rows: pl.DataFrame
    """The further versions of its rows, with ``KNOWN_FROM``."""


def build_examples(
    rows: pl.DataFrame,
    features: FeatureSet,
    examples: Examples,
    task: Task,
    until: datetime | None,
    split: Split | None = None,
    corrections: CorrectionRows | None = None,
) -> pl.DataFrame:
    """Return the examples among the rows of a source, with id, as_of, label, label_known_at and request-time features.

    A corrected row is one example, in the place of its first version. Its label is the one that was known at ``until``,
    known at the earliest when its version was. Its time and request columns are those of the newest version that was
    known at that time, too, or of the first: what a request would have contained.

    Args:
        rows: Rows of the examples' source.
        features: The feature set.
        examples: Which columns hold id, label and times.
        task: What the model predicts.
        until: Leave out examples whose label became known later; None: none.
        split: Adds the column GROUP for a split by groups.
        corrections: Corrections of the source; ``rows`` then have the key, and ``KNOWN_FROM``.

    Raises:
        DataError: A label does not fit the task.
    """
    if corrections is None:
        labeled = label_rows(rows, features, examples, task, split).drop_nulls([LABEL, LABEL_KNOWN_AT])
    else:
        first = rows.filter(pl.col(KNOWN_FROM).is_null()).with_row_index(_PLACE)
        places = first.select(_PLACE, *corrections.key)
        further = corrections.rows.join(places, on=list(corrections.key)).sort(KNOWN_FROM).select(first.columns)
        versions = pl.concat([first, further])
        whole = pl.concat(
            [versions.select(_PLACE, KNOWN_FROM), label_rows(versions.drop(_PLACE), features, examples, task, split)],
            how="horizontal",
        )
        labeled = _newest_labels(whole, examples, until)
    return labeled if until is None else labeled.filter(pl.col(LABEL_KNOWN_AT) <= pl.lit(until).cast(INSTANT))


def label_values(task: Task, label: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Convert the label to float64: class names become their index, unknown ones null."""
    if task.kind == "multiclass" and dtype == pl.String:
        return label.replace_strict(list(task.classes), range(len(task.classes)), default=None).cast(pl.Float64)
    return label.cast(pl.Float64)


def _require_labels(task: Task, labels: pl.Series, source: str) -> None:
    """Raise DataError for a label that the task does not have. Null is allowed: such rows are not examples."""
    if task.kind == "multiclass" and labels.dtype == pl.String:
        allowed: list[str] | list[float] = list(task.classes)
        known, expected = labels.drop_nulls(), f"one of {', '.join(task.classes)}"
    elif labels.dtype.is_numeric() or labels.dtype in (pl.Boolean, pl.Null):
        if task.kind not in ("binary", "multiclass"):
            return
        allowed, known = [float(n) for n in range(max(2, task.outputs))], labels.drop_nulls().cast(pl.Float64)
        expected = "0 or 1" if task.kind == "binary" else f"a position in {len(allowed)} classes"
    else:
        raise DataError(
            "data.label_type",
            label=f"the label of source {source!r}",
            type=str(labels.dtype),
            task=task.kind,
            source=source,
        )
    unknown = known.filter(~known.is_in(allowed))
    if len(unknown):
        raise DataError("data.unknown_label", source=source, label=unknown[0], expected=expected)


def _newest_labels(versions: pl.DataFrame, examples: Examples, until: datetime | None) -> pl.DataFrame:
    """Of the versions of each row, in the order in which they were known, take what was known."""
    landed = pl.col(KNOWN_FROM).is_null() | (pl.col(KNOWN_FROM) <= pl.lit(until).cast(INSTANT) if until else True)
    dated = versions.filter(landed).drop_nulls(AS_OF)
    is_known = pl.col(KNOWN_FROM).is_null() | (pl.col(KNOWN_FROM) <= pl.col(AS_OF))
    # Versions that were not known at their own time come first, the earliest of them last.
    unknown, sure = dated.filter(~is_known), dated.filter(is_known)
    chosen = pl.concat([unknown.reverse(), sure]).unique(_PLACE, keep="last", maintain_order=True)
    if isinstance(examples.label, LabelWithin):
        return chosen.sort(_PLACE).drop(_PLACE, KNOWN_FROM)
    is_label = pl.col(LABEL).is_not_null() & pl.col(LABEL_KNOWN_AT).is_not_null()
    known_at = pl.when(is_label).then(pl.max_horizontal(LABEL_KNOWN_AT, KNOWN_FROM))
    from_when = pl.coalesce(known_at, KNOWN_FROM)
    known = versions if until is None else versions.filter((from_when <= pl.lit(until).cast(INSTANT)).fill_null(True))
    labels = known.group_by(_PLACE, maintain_order=True).agg(
        pl.col(LABEL).last(), known_at.last().alias(LABEL_KNOWN_AT)
    )
    both = chosen.drop(LABEL, LABEL_KNOWN_AT).join(labels, on=_PLACE).sort(_PLACE).drop(_PLACE, KNOWN_FROM)
    return both.select(ID, LABEL, LABEL_KNOWN_AT, pl.exclude(ID, LABEL, LABEL_KNOWN_AT)).drop_nulls(
        [LABEL, LABEL_KNOWN_AT]
    )


def label_rows(
    rows: pl.DataFrame, features: FeatureSet, examples: Examples, task: Task, split: Split | None
) -> pl.DataFrame:
    """Return all rows with id, as_of, label, label_known_at and request-time features, as ``build_examples`` does."""
    dated = pl.col(examples.time_column).cast(INSTANT).alias(AS_OF)
    request = rows if features.as_of is not None else rows.with_columns(dated)
    request_columns = request_features(features, request)
    label = examples.label
    if isinstance(label, LabelWithin):
        known_at = (request_columns.get_column(AS_OF) + label.delay).alias(LABEL_KNOWN_AT)
        of_label: list[pl.Expr | pl.Series] = [pl.lit(0.0).alias(LABEL), known_at, *event_keys(label)]
    else:
        labels = rows.select(label.alias(LABEL))[LABEL]
        _require_labels(task, labels, examples.source)
        known = pl.col(examples.label_known_at).cast(INSTANT).alias(LABEL_KNOWN_AT)
        of_label = [label_values(task, label, labels.dtype).alias(LABEL), known]
    group = [group_expr(split.group)] if split and split.group else []
    head = rows.select(pl.col(examples.id).cast(pl.String).alias(ID), *of_label, *group)
    clash = [c for c in head.columns if c in request_columns.columns]
    return pl.concat([head, request_columns.drop(clash)], how="horizontal")
