"""Compares served features with the same features computed offline, bit for bit. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl

from cluster.values import Frozen
from features.definitions import Column, FeatureSet
from features.types import AS_OF, ID


class SkewExample(Frozen):
    """A row whose values differ: its id, the time of its features, and both values as text."""

    id: str
    as_of: str
    served_value: str
    offline_value: str

    def __str__(self) -> str:
        return f"row {self.id} as of {self.as_of}: served {self.served_value}, offline {self.offline_value}"


class FeatureSkew(Frozen):
    """How served and offline values of one feature differ."""

    feature: str
    origin: str
    """Name of the view; "request", or "derived" for a feature that is derived from more than the request."""
    rows: int
    """Rows compared."""
    mismatches: int
    """Rows whose values differ."""
    only_offline: int
    """Mismatches without a served value."""
    only_served: int
    """Mismatches without an offline value."""
    largest_difference: float
    """Between two numbers."""
    example: SkewExample | None

    def merge(self, other: FeatureSkew) -> FeatureSkew:
        """Combine with the result of other rows."""
        counts = ("rows", "mismatches", "only_offline", "only_served")
        merged: dict[str, object] = {name: getattr(self, name) + getattr(other, name) for name in counts}
        merged["largest_difference"] = max(self.largest_difference, other.largest_difference)
        merged["example"] = self.example or other.example
        return self.model_copy(update=merged)


def compare_frames(features: FeatureSet, served_frame: pl.DataFrame, offline_frame: pl.DataFrame) -> list[FeatureSkew]:
    """Compare each computed feature. Request columns are inputs, and not compared.

    Args:
        features: The feature set.
        served_frame: Served features, ``id`` and ``as_of``.
        offline_frame: Offline features of the same requests in the same order.

    Returns:
        One result for each derived feature and view column: those of the request, of views, and derived from both.
    """
    origins = [(Column(name=d.name, kind=d.kind), "request") for d in features.request_derived]
    origins += [(column, view.name) for view in features.views for column in view.columns]
    origins += [(Column(name=d.name, kind=d.kind), "derived") for d in features.joined_derived]
    return [_skew(column, origin, served_frame, offline_frame.get_column(column.name)) for column, origin in origins]


def merge_skews(skews: Iterable[FeatureSkew]) -> list[FeatureSkew]:
    """Combine the results of several parts, one for each feature."""
    merged: dict[tuple[str, str], FeatureSkew] = {}
    for skew in skews:
        key = (skew.origin, skew.feature)
        merged[key] = merged[key].merge(skew) if key in merged else skew
    return list(merged.values())


def _skew(column: Column, origin: str, frame: pl.DataFrame, offline: pl.Series) -> FeatureSkew:
    served = frame.get_column(column.name)
    wrong = _differs(served, offline)
    here, there = served.is_not_null().to_numpy(), offline.is_not_null().to_numpy()
    return FeatureSkew(
        feature=column.name,
        origin=origin,
        rows=len(wrong),
        mismatches=int(wrong.sum()),
        only_offline=int((wrong & ~here & there).sum()),
        only_served=int((wrong & here & ~there).sum()),
        largest_difference=_largest(served, offline, wrong & here & there),
        example=_example(frame, served, offline, wrong),
    )


def _differs(served: pl.Series, offline: pl.Series) -> np.ndarray:
    """Whether cells differ: null equals only null, and numbers are equal when all 64 bits are, so -0.0 is not 0.0."""
    if not served.dtype.is_float():
        return np.asarray(served.cast(offline.dtype).ne_missing(offline).to_numpy())
    bits = [values.fill_null(0.0).cast(pl.Float64).to_numpy().view(np.int64) for values in (served, offline)]
    return np.asarray((bits[0] != bits[1]) | (served.is_null().to_numpy() != offline.is_null().to_numpy()))


def _largest(served: pl.Series, offline: pl.Series, where: np.ndarray) -> float:
    if not served.dtype.is_float() or not where.any():
        return 0.0
    gaps = np.abs(served.fill_null(0.0).to_numpy() - offline.fill_null(0.0).to_numpy())[where]
    return float(np.nanmax(gaps, initial=0.0))


def _example(frame: pl.DataFrame, served: pl.Series, offline: pl.Series, wrong: np.ndarray) -> SkewExample | None:
    if not wrong.any():
        return None
    row = int(np.argmax(wrong))
    as_of = frame.get_column(AS_OF)[row]
    return SkewExample(
        id=str(frame.get_column(ID)[row]),
        as_of=f"{as_of:%Y-%m-%d %H:%M:%S.%f}",
        served_value=str(served[row]),
        offline_value=str(offline[row]),
    )
