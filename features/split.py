"""Splits of examples into training, validation and test: by time, or by a hash of the id. Pure.

This module alone decides which rows a part has; everything else reads the column "split" of the training frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import ClassVar, Self

import polars as pl
from pydantic import AwareDatetime, model_validator

from cluster.errors import ProjectError
from cluster.values import Frozen
from features.types import AS_OF, ID, INSTANT, LABEL_KNOWN_AT

SPLIT = "split"
TRAIN, VALIDATION, TEST = "train", "validation", "test"
PARTS = (TRAIN, VALIDATION, TEST)
GROUP = "__group"
"""Column with the hash of a row's group, while a frame is built; null for a row without a group."""
_BUCKETS = 10_000


class TimeSplit(Frozen):
    """Train on [start, validate_from), validate on [validate_from, test_from), test on [test_from, end).

    A row is in its part only if its label was known by the part's end: a training run on that day could not have had
    it. Other rows are purged (López de Prado 2018, Advances in Financial Machine Learning, section 7.4.1).
    """

    start: AwareDatetime
    validate_from: AwareDatetime
    test_from: AwareDatetime
    end: AwareDatetime
    group: tuple[str, ...] = ()
    """Columns of the examples' source whose values name a group, such as ("customer",). A group belongs to the part of
    its first row; its rows in later parts are purged. A row that lacks one of the values is a group of its own."""

    purges: ClassVar[bool] = True

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if not self.start < self.validate_from < self.test_from < self.end:
            raise ProjectError("project.split_order")
        return self

    @property
    def bounds(self) -> dict[str, tuple[datetime, datetime]]:
        """Start and end of each part. A row's label must be known by the end of its part."""
        dates = (self.start, self.validate_from, self.test_from, self.end)
        return dict(zip(PARTS, pairwise(dates), strict=True))

    def part_expr(self) -> pl.Expr:
        """Return an expression for the part in which ``as_of`` is, or null outside, whenever the label was known."""
        at = pl.col(AS_OF)
        within = {part: (at >= _at(start)) & (at < _at(end)) for part, (start, end) in self.bounds.items()}
        return pl.coalesce(pl.when(condition).then(pl.lit(part)) for part, condition in within.items())

    def split_expr(self) -> pl.Expr:
        """Return an expression for each row's part; null outside, and for a row whose label was known too late."""
        part, known_at = self.part_expr(), pl.col(LABEL_KNOWN_AT)
        in_time = [(part == name) & (known_at <= _at(end)) for name, (_, end) in self.bounds.items()]
        return pl.when(pl.any_horizontal(in_time)).then(part)

    def warning(self, first: datetime, last: datetime) -> str:
        """Return no warning: no part has rows of labels that could not be known."""
        return ""

    def for_retrain(self, now: datetime, holdout: timedelta) -> Self:
        """Return the split for a retrain: the last ``holdout`` before ``now`` tests, the one before that validates."""
        return self.model_copy(update={"end": now, "test_from": now - holdout, "validate_from": now - 2 * holdout})


class HashSplit(Frozen):
    """Shares of the ids, drawn by hash: an id is always in the same part."""

    validation: float = 0.2
    test: float = 0.2
    group: tuple[str, ...] = ()
    """Columns of the examples' source whose values are hashed in place of the id, such as ("customer",): all rows of a
    group are in one part. For a row that lacks one of the values, the id is hashed."""

    purges: ClassVar[bool] = False

    def part_expr(self) -> pl.Expr:
        """Return an expression for each row's part by ``id`` or group: "train", "validation" or "test"."""
        key = pl.col(ID).hash(seed=0)
        key = pl.coalesce(GROUP, key) if self.group else key
        place = (key % _BUCKETS).cast(pl.Float64) / _BUCKETS
        return (
            pl.when(place < self.test).then(pl.lit(TEST))
            .when(place < self.test + self.validation).then(pl.lit(VALIDATION))
            .otherwise(pl.lit(TRAIN))
        )  # fmt: skip

    def split_expr(self) -> pl.Expr:
        """Return the same expression: no part ends at a time by which its labels must be known."""
        return self.part_expr()

    def warning(self, first: datetime, last: datetime) -> str:
        """Return why figures may be too good, in a sentence, when rows span more than a day; else an empty string.

        Args:
            first: Time of the first row.
            last: Time of the last row.
        """
        if last - first <= timedelta(days=1):
            return ""
        return (
            f"HashSplit draws rows regardless of time, but these span {first:%Y-%m-%d} to {last:%Y-%m-%d}: a model "
            "trains on later rows than it is tested on; TimeSplit tests on the latest rows, as live traffic does"
        )

    def for_retrain(self, now: datetime, holdout: timedelta) -> Self:
        """Return the split itself: ids do not move with time."""
        return self


Split = TimeSplit | HashSplit


def group_expr(columns: Sequence[str]) -> pl.Expr:
    """Return an expression for the hash of a row's group, uint64; null if it lacks a value. Two groups of equal hash
    count as one, which is safe."""
    text = pl.concat_str([pl.col(column).cast(pl.String) for column in columns], separator="\x1f")
    return pl.when(text.is_not_null()).then(text.hash(seed=0)).alias(GROUP)


def _at(moment: datetime) -> pl.Expr:
    return pl.lit(moment).cast(INSTANT)
