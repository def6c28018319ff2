"""Served features against the same features computed offline, bit for bit. Pure: two frames in, differences out."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl

from cluster.values import Frozen
from features.definitions import Column, FeatureSet
from features.types import AS_OF

ID = "id"


class SkewExample(Frozen):
    """One row whose values differ: the row's id, the time of its features, and both values as text."""

    id: str
    as_of: str
    served: str
    offline: str


class FeatureSkew(Frozen):
    """How one feature of ``origin`` (a view's name, or "request") compares over ``rows`` rows.

    Of the ``mismatches``, ``only_offline`` had no value when they were served, and ``only_served`` have none offline.
    ``largest_difference`` is the largest difference between two numbers.
    """

    feature: str
    origin: str
    rows: int
    mismatches: int
    only_offline: int
    only_served: int
    largest_difference: float
    example: SkewExample | None

    def merge(self, other: FeatureSkew) -> FeatureSkew:
        return FeatureSkew(
            feature=self.feature,
            origin=self.origin,
            rows=self.rows + other.rows,
            mismatches=self.mismatches + other.mismatches,
            only_offline=self.only_offline + other.only_offline,
            only_served=self.only_served + other.only_served,
            largest_difference=max(self.largest_difference, other.largest_difference),
            example=self.example or other.example,
        )


def compare_frames(features: FeatureSet, served: pl.DataFrame, offline: pl.DataFrame) -> list[FeatureSkew]:
    """Each computed feature, in the order of the feature set; request columns are given, not computed.

    ``served`` also has ``id`` and ``as_of``; both frames have the same requests in the same order.
    """
    origins = [(Column(name=d.name, kind=d.kind), "request") for d in features.derived]
    origins += [(column, view.name) for view in features.views for column in view.columns]
    return [_skew(column, origin, served, offline.get_column(column.name)) for column, origin in origins]


def merge_skews(found: Iterable[FeatureSkew]) -> list[FeatureSkew]:
    """Findings of several parts, one for each feature."""
    merged: dict[tuple[str, str], FeatureSkew] = {}
    for one in found:
        key = (one.origin, one.feature)
        merged[key] = merged[key].merge(one) if key in merged else one
    return list(merged.values())


def _skew(column: Column, origin: str, served: pl.DataFrame, offline: pl.Series) -> FeatureSkew:
    ours, theirs = served.get_column(column.name), offline
    wrong = _differs(ours, theirs)
    here, there = ours.is_not_null().to_numpy(), theirs.is_not_null().to_numpy()
    return FeatureSkew(
        feature=column.name,
        origin=origin,
        rows=len(wrong),
        mismatches=int(wrong.sum()),
        only_offline=int((wrong & ~here & there).sum()),
        only_served=int((wrong & here & ~there).sum()),
        largest_difference=_largest(ours, theirs, wrong & here & there),
        example=_example(served, ours, theirs, wrong),
    )


def _differs(ours: pl.Series, theirs: pl.Series) -> np.ndarray:
    """Whether cells differ: a null is equal to a null alone, a number to the same 64 bits, -0.0 not to 0.0."""
    if not ours.dtype.is_float():
        return np.asarray(ours.cast(theirs.dtype).ne_missing(theirs).to_numpy())
    bits = [values.fill_null(0.0).cast(pl.Float64).to_numpy().view(np.int64) for values in (ours, theirs)]
    return np.asarray((bits[0] != bits[1]) | (ours.is_null().to_numpy() != theirs.is_null().to_numpy()))


def _largest(ours: pl.Series, theirs: pl.Series, where: np.ndarray) -> float:
    if not ours.dtype.is_float() or not where.any():
        return 0.0
    gaps = np.abs(ours.fill_null(0.0).to_numpy() - theirs.fill_null(0.0).to_numpy())[where]
    return float(np.nanmax(gaps, initial=0.0))


def _example(served: pl.DataFrame, ours: pl.Series, theirs: pl.Series, wrong: np.ndarray) -> SkewExample | None:
    if not wrong.any():
        return None
    row = int(np.argmax(wrong))
    as_of = served.get_column(AS_OF)[row]
    return SkewExample(
        id=str(served.get_column(ID)[row]),
        as_of=f"{as_of:%Y-%m-%d %H:%M:%S.%f}",
        served=str(ours[row]),
        offline=str(theirs[row]),
    )
