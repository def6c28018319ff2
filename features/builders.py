"""Short forms for declaring columns and features in a project."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

import polars as pl

from features.definitions import Aggregate, Column, Derived, Kind, Operation


def number(*names: str) -> tuple[Column, ...]:
    """Declare number columns: float64 or int64."""
    return tuple(Column(name=name, kind="number") for name in names)


def category(*names: str) -> tuple[Column, ...]:
    """Declare category columns: text."""
    return tuple(Column(name=name, kind="category") for name in names)


def timestamp(*names: str) -> tuple[Column, ...]:
    """Declare timestamp columns: microseconds, UTC."""
    return tuple(Column(name=name, kind="timestamp") for name in names)


def tensor(name: str, *shape: int) -> tuple[Column, ...]:
    """Declare a tensor column: float32 of ``shape``, without the row."""
    return (Column(name=name, kind="tensor", shape=shape),)


def derive(name: str, expression: pl.Expr, kind: Kind = "number") -> Derived:
    """Declare a feature that is computed by a Polars expression over columns of the same row.

    Args:
        name: Name of the feature.
        expression: Built-in Polars expressions only, no Python functions.
        kind: Kind of the result.
    """
    return Derived(name=name, kind=kind, expression=expression.meta.serialize(format="json"))


def rolling(
    column: str,
    window: timedelta,
    name: str,
    ops: Sequence[Operation] = ("mean", "count"),
    *,
    resolution: float = 2.0**-16,
    kind: Literal["number", "category"] = "number",
) -> tuple[Aggregate, ...]:
    """Declare aggregates of a column over the values that became known in the last ``window``.

    Args:
        column: Column of the view's source.
        window: Length of the window.
        name: Features are named ``{name}_{op}``.
        ops: What to compute; see ``Aggregate``.
        resolution: Step to which values are rounded before they are added up.
        kind: "category" for count and distinct of a text column.
    """
    return tuple(
        Aggregate(column=column, op=op, window=window, name=f"{name}_{op}", resolution=resolution, kind=kind)
        for op in ops
    )


def hashed(*columns: Column) -> tuple[Column, ...]:
    """Declare category columns as personal data of which only keyed hashes are stored."""
    return tuple(Column(**{**column.model_dump(), "personal": "hash"}) for column in columns)


def dropped(*columns: Column) -> tuple[Column, ...]:
    """Declare columns as personal data that is not stored at all; validation still sees them."""
    return tuple(Column(**{**column.model_dump(), "personal": "drop"}) for column in columns)
