"""Short forms in which a project declares columns and features."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

import polars as pl

from features.definitions import Aggregate, Column, Derived, Kind, Operation


def number(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name=name, kind="number") for name in names)


def category(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name=name, kind="category") for name in names)


def timestamp(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name=name, kind="timestamp") for name in names)


def tensor(name: str, *shape: int) -> tuple[Column, ...]:
    return (Column(name=name, kind="tensor", shape=shape),)


def derive(name: str, expression: pl.Expr, kind: Kind = "number") -> Derived:
    """Name a Polars expression over request columns as a feature."""
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
    """Aggregates of ``column`` over what became known in the last ``window``, named ``{name}_{op}``."""
    return tuple(
        Aggregate(column=column, op=op, window=window, name=f"{name}_{op}", resolution=resolution, kind=kind)
        for op in ops
    )


def hashed(*columns: Column) -> tuple[Column, ...]:
    """Categories that are personal data: a keyed hash stands for each value wherever it is stored."""
    return tuple(Column(**{**column.model_dump(), "personal": "hash"}) for column in columns)


def dropped(*columns: Column) -> tuple[Column, ...]:
    """Columns that are personal data and are not stored at all; checks on landing still see them."""
    return tuple(Column(**{**column.model_dump(), "personal": "drop"}) for column in columns)
