"""Which rows may get a weak label, and the training rows that follow from it. Pure; weak_frame.py runs it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import polars as pl

from cluster.values import Task
from features.definitions import FeatureSet
from features.labeling.labeling_functions import WeakLabels, cast_votes
from features.offline.example_rows import label_rows
from features.split import GROUP, SPLIT, TRAIN, Split
from features.types import AS_OF, ID, INSTANT, KNOWN_FROM, LABEL, LABEL_KNOWN_AT, WEIGHT

if TYPE_CHECKING:
    # Its readers import Ray.
    from features.sources.source import Examples

MIN_SHARE = 0.01
"""Probability below which a class of a weak label is left out."""
_PART = "__part"


def find_candidates(
    rows: pl.DataFrame,
    features: FeatureSet,
    examples: Examples,
    task: Task,
    split: Split,
    until: datetime | None,
    labeled: pl.Series,
) -> tuple[pl.DataFrame, pl.Series]:
    """Find the training rows without a true label.

    Args:
        rows: Rows of the examples' source.
        features: The feature set.
        examples: Which columns hold id, label and times.
        task: The task.
        split: Its training part alone gets weak labels.
        until: Leave out later rows; None: none.
        labeled: Ids of rows whose label came with a correction.

    Returns:
        The rows with their request-time features, without a label; and the groups of rows that validate or test.
    """
    first = rows.filter(pl.col(KNOWN_FROM).is_null()).drop(KNOWN_FROM) if KNOWN_FROM in rows.columns else rows
    every = label_rows(first, features, examples, task, split).with_columns(split.part_expr().alias(_PART))
    held_out = every.filter(pl.col(_PART) != TRAIN)
    groups = held_out[GROUP].drop_nulls().unique() if GROUP in every.columns else pl.Series(GROUP, [], pl.UInt64)
    is_candidate = (pl.col(_PART) == TRAIN) & pl.col(LABEL).is_null() & ~pl.col(ID).is_in(labeled.implode())
    is_known = pl.lit(True) if until is None else pl.col(AS_OF) <= pl.lit(until).cast(INSTANT)
    known_at, part = pl.col(AS_OF).alias(LABEL_KNOWN_AT), pl.lit(TRAIN).alias(SPLIT)
    return every.filter(is_candidate & is_known).drop(_PART).with_columns(known_at, part), groups


def drop_groups(rows: pl.DataFrame, groups: pl.Series) -> pl.DataFrame:
    """Leave out the rows of groups that validate or test, and the column GROUP."""
    if GROUP not in rows.columns:
        return rows
    kept = rows.filter(pl.col(GROUP).is_null() | ~pl.col(GROUP).is_in(groups.implode()))
    return kept.drop(GROUP)


def weigh_rows(rows: pl.DataFrame, weak: WeakLabels, task: Task, posteriors: pl.DataFrame) -> pl.DataFrame:
    """Give rows their weak label: a row for each class, weighted by the probability of the class.

    The weighted loss of these rows is the expected loss (Ratner et al., "Data programming", NeurIPS 2016).

    Args:
        rows: Rows without a label.
        weak: The labeling functions.
        task: The task.
        posteriors: The weak label of each row of votes (estimate_weak_labels).

    Returns:
        The rows with LABEL and WEIGHT, without those that have no vote.
    """
    names = [function.name for function in weak.functions]
    renamed = {name: f"__vote {name}" for name in names}
    voted = pl.concat([rows, cast_votes(weak, task, rows).rename(renamed)], how="horizontal")
    labeled = voted.join(posteriors.rename(renamed), on=list(renamed.values()), maintain_order="left")
    classes = pl.int_ranges(0, pl.col("posterior").list.len()).alias(LABEL)
    soft = labeled.with_columns(classes, pl.col("posterior").alias(WEIGHT)).explode(LABEL, WEIGHT)
    kept = soft.filter(pl.col(WEIGHT) >= MIN_SHARE).drop("posterior", *renamed.values())
    return kept.with_columns(pl.col(LABEL).cast(pl.Float64), pl.col(WEIGHT) * weak.weight)
