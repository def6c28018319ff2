"""Sources: what a table must look like to be landed, and the pure check that sorts good rows from bad."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import polars as pl

from cluster.errors import DataError, ProjectError
from features.definitions import Column, FeatureSet
from features.pit import INSTANT

if TYPE_CHECKING:
    import ray.data

REASON = "__reason"
_ROW = "__row"
_TYPES: dict[str, pl.DataType] = {
    "number": pl.Float64(),
    "category": pl.String(),
    "timestamp": INSTANT,
    "tensor": pl.List(pl.Float32()),
}


@dataclass(frozen=True)
class Source:
    """A table of the outside world. ``read`` gives it as a Ray Dataset; ``key`` names each row.

    ``required`` columns may not be null; ``ranges`` are inclusive bounds of number columns. Rows that
    break a rule are quarantined with the reason. Event and known-at times are always required.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    event_time: str
    known_at: str
    read: Callable[[], ray.data.Dataset]
    required: tuple[str, ...] = ()
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds = {c.name: c.kind for c in self.columns}
        for name in (*self.key, self.event_time, self.known_at, *self.required, *self.ranges):
            if name not in kinds:
                raise ProjectError(f"source {self.name!r} refers to column {name!r}, which it does not declare")
        for name in (self.event_time, self.known_at):
            if kinds[name] != "timestamp":
                raise ProjectError(f"source {self.name!r}: column {name!r} must be a timestamp, not a {kinds[name]}")

    @property
    def names(self) -> list[str]:
        return [c.name for c in self.columns]


@dataclass(frozen=True)
class Examples:
    """Which rows of which source become training rows, and what is to be predicted.

    ``label`` is a Polars expression giving contracts.Task's label (null: no example); a multiclass
    label may be a class name. ``label_known_at`` is the column that says when the label was known;
    ``event_time`` the one that dates an example when the feature set declares no ``as_of``.
    """

    source: str
    id: str
    label: pl.Expr
    label_known_at: str
    event_time: str = ""


def check(source: Source, rows: pl.DataFrame) -> pl.DataFrame:
    """The source's columns in their types, and ``__reason``: null for a good row.

    All rows of one key must be in ``rows`` for repeats to be found; the first known one is kept.
    Raises DataError when a column is missing altogether: that is no matter of single rows.
    """
    missing = [name for name in source.names if name not in rows.columns]
    if missing:
        raise DataError(
            f"source {source.name!r} lacks column{'s' * (len(missing) > 1)} {', '.join(missing)}",
            f"it has {', '.join(rows.columns)}",
        )
    raw = rows.select(source.names)
    typed = raw.with_columns(_cast(column, raw.schema[column.name]) for column in source.columns)
    mistyped = [
        (raw.get_column(name).is_not_null() & typed.get_column(name).is_null()).alias(name) for name in source.names
    ]
    faults = [pl.when(flags).then(pl.lit(f"{flags.name} is not a {_kind(source, flags.name)}")) for flags in mistyped]
    judged = typed.with_columns(pl.coalesce(*faults, *_rules(source)).alias(REASON)).sort(
        source.known_at, maintain_order=True
    )
    good = pl.col(REASON).is_null()
    repeated = good & ~pl.struct(*source.key, good.alias("good")).is_first_distinct()
    return judged.with_columns(
        pl.when(repeated)
        .then(pl.lit(f"repeats the key {', '.join(source.key)}"))
        .otherwise(pl.col(REASON))
        .alias(REASON)
    )


def unknown(source: Source, rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """The rows, as they are, whose key is not among the ``known`` keys."""
    keys = rows.select(
        _cast(column, rows.schema[column.name]) for column in source.columns if column.name in source.key
    )
    fresh = keys.with_row_index(_ROW).join(
        known, on=list(source.key), how="anti", nulls_equal=True, maintain_order="left"
    )
    return rows[fresh.get_column(_ROW)]


def quarantined(source: Source, bad: pl.DataFrame) -> pl.DataFrame:
    """Rows of the quarantine table: source, reason, and the row as JSON."""
    cells = [json.dumps(row, default=str, sort_keys=True) for row in bad.select(source.names).to_dicts()]
    columns = {"source": [source.name] * bad.height, "reason": bad.get_column(REASON).to_list(), "row": cells}
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def require_columns(features: FeatureSet, examples: Examples, sources: tuple[Source, ...]) -> None:
    """Raise ProjectError when views or examples name a source or column that nothing declares."""
    declared = {source.name: set(source.names) for source in sources}
    wanted = {f"feature view {v.name!r}": (v.source, v.source_columns) for v in features.views}
    request = tuple(c.name for c in features.request)
    needed = (examples.id, examples.label_known_at, *request, *examples.label.meta.root_names())
    wanted["examples"] = (examples.source, needed)
    for who, (source, columns) in wanted.items():
        if source not in declared:
            raise ProjectError(f"{who}: no source is called {source!r}", f"declared are {', '.join(sorted(declared))}")
        absent = [c for c in columns if c not in declared[source]]
        if absent:
            raise ProjectError(f"{who}: source {source!r} declares no column {', '.join(absent)}")


def _cast(column: Column, stored: pl.DataType) -> pl.Expr:
    target = _TYPES[column.kind]
    value = pl.col(column.name)
    if column.kind == "timestamp" and stored == pl.String:
        return value.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)
    if column.kind == "number":
        return value.cast(target, strict=False).fill_nan(None)
    return value.cast(target, strict=False)


def _rules(source: Source) -> list[pl.Expr]:
    needed = dict.fromkeys((*source.key, source.event_time, source.known_at, *source.required))
    rules: list[pl.Expr] = [pl.when(pl.col(name).is_null()).then(pl.lit(f"{name} is missing")) for name in needed]
    early = pl.col(source.known_at) < pl.col(source.event_time)
    rules.append(pl.when(early).then(pl.lit(f"{source.known_at} is before {source.event_time}")))
    for name, (low, high) in source.ranges.items():
        outside = ~pl.col(name).is_between(low, high)
        rules.append(pl.when(outside).then(pl.lit(f"{name} is outside {low:g} to {high:g}")))
    return rules


def _kind(source: Source, name: str) -> str:
    return next(c.kind for c in source.columns if c.name == name)
