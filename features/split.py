"""Splits of examples into training, validation and test: by time, or by a hash of the id. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Self

import polars as pl
from pydantic import AwareDatetime, model_validator

from cluster.errors import ProjectError
from cluster.values import Frozen
from features.types import AS_OF, ID, INSTANT

SPLIT = "split"
TRAIN, VALIDATION, TEST = "train", "validation", "test"
_BUCKETS = 10_000


class TimeSplit(Frozen):
    """Train on [start, validate_from), validate on [validate_from, test_from), test on [test_from, end)."""

    start: AwareDatetime
    validate_from: AwareDatetime
    test_from: AwareDatetime
    end: AwareDatetime

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if not self.start < self.validate_from < self.test_from < self.end:
            raise ProjectError("project.split_order")
        return self

    def split_expr(self) -> pl.Expr:
        """Return an expression for each row's part by ``as_of``: "train", "validation", "test", or null outside."""
        at = pl.col(AS_OF)
        return (
            pl.when(at < _at(self.start)).then(None)
            .when(at < _at(self.validate_from)).then(pl.lit(TRAIN))
            .when(at < _at(self.test_from)).then(pl.lit(VALIDATION))
            .when(at < _at(self.end)).then(pl.lit(TEST))
        )  # fmt: skip

    def for_retrain(self, now: datetime, holdout: timedelta) -> Self:
        """Return the split for a retrain: the last ``holdout`` before ``now`` tests, the one before that validates."""
        return self.model_copy(update={"end": now, "test_from": now - holdout, "validate_from": now - 2 * holdout})


class HashSplit(Frozen):
    """Shares of the ids, drawn by hash: an id is always in the same part."""

    validation: float = 0.2
    test: float = 0.2

    def split_expr(self) -> pl.Expr:
        """Return an expression for each row's part by ``id``: "train", "validation" or "test"."""
        place = (pl.col(ID).hash(seed=0) % _BUCKETS).cast(pl.Float64) / _BUCKETS
        return (
            pl.when(place < self.test).then(pl.lit(TEST))
            .when(place < self.test + self.validation).then(pl.lit(VALIDATION))
            .otherwise(pl.lit(TRAIN))
        )  # fmt: skip

    def for_retrain(self, now: datetime, holdout: timedelta) -> Self:
        """Return the split itself: ids do not move with time."""
        return self


Split = TimeSplit | HashSplit


def _at(moment: datetime) -> pl.Expr:
    return pl.lit(moment).cast(INSTANT)
