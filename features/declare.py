"""Short forms in which a project declares columns and features."""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from features.definitions import Aggregate, Column, Derived, Kind


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


def rolling(column: str, window: timedelta, name: str) -> tuple[Aggregate, Aggregate]:
    """Mean and count of ``column`` over what became known in the last ``window``."""
    return (
        Aggregate(column=column, op="mean", window=window, name=f"{name}_mean"),
        Aggregate(column=column, op="count", window=window, name=f"{name}_count"),
    )
