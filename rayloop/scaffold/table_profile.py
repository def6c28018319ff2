"""What the columns of a table look like: their kinds, and what speaks against using them. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple

import polars as pl

from features.definitions import Column, Kind
from features.sources.table_files import TableSample
from features.sources.validation import cast_column
from features.split import SPLIT
from features.types import AS_OF, ID, LABEL, LABEL_KNOWN_AT

RESERVED = (AS_OF, ID, LABEL, LABEL_KNOWN_AT, SPLIT)
"""Columns of a training frame, which no feature may be called."""
_NEARLY_UNIQUE = 0.9
_TEXT_LENGTH = 60
_MIN_ROWS = 20
"""Rows below which different values do not make an id."""


class ColumnProfile(NamedTuple):
    """A column of a table."""

    name: str
    kind: Kind | Literal["other"]
    """``other``: lists, bytes and the like."""
    distinct: int
    """Different values, without null."""
    nulls: int
    unfit: str
    """Why it is no feature; empty if it may be one."""
    is_unique: bool
    """Whether no value occurs twice or is null, and the values are no measurements."""

    def __str__(self) -> str:
        return self.name


class TableProfile(NamedTuple):
    """The columns of a table, and its sampled rows in their types."""

    columns: tuple[ColumnProfile, ...]
    rows: pl.DataFrame

    def column(self, name: str) -> ColumnProfile | None:
        """Return the column of this name."""
        return next((column for column in self.columns if column.name == name), None)

    def of_kind(self, *kinds: str) -> list[ColumnProfile]:
        """Return the columns of these kinds."""
        return [column for column in self.columns if column.kind in kinds]


def profile_table(sample: TableSample) -> TableProfile:
    """Find the kind of each column of a table.

    Args:
        sample: Its rows; cells of CSV are text.
    """
    typed = {name: _typed(sample.rows.get_column(name)) for name in sample.rows.columns}
    rows = pl.DataFrame([values for _, values in typed.values()])
    return TableProfile(tuple(_profile(name, kind, values) for name, (kind, values) in typed.items()), rows)


def _typed(values: pl.Series) -> tuple[Kind | Literal["other"], pl.Series]:
    """The kind of a column, and its values in the type of that kind."""
    if values.dtype.is_temporal() and values.dtype not in (pl.Time, pl.Duration):
        return "timestamp", cast_as(values, "timestamp")
    if values.dtype.is_numeric() or values.dtype == pl.Boolean:
        return "number", cast_as(values, "number")
    if values.dtype not in (pl.String, pl.Categorical, pl.Enum):
        return "other", values
    texts = values.cast(pl.String)
    has_code = bool(texts.str.contains(r"^0\d").any())
    for kind in ("number", "timestamp") if not has_code else ("timestamp",):
        cast = cast_as(texts, kind)
        if texts.null_count() < len(texts) and cast.null_count() == texts.null_count():
            return kind, cast
    return "category", texts


def cast_as(values: pl.Series, kind: str) -> pl.Series:
    """Return a column in the type of a kind; null where a value has no such form."""
    column = Column(name=values.name, kind=kind)  # type: ignore[arg-type]
    return values.to_frame().select(cast_column(column, values.dtype)).to_series()


def _profile(name: str, kind: Kind | Literal["other"], values: pl.Series) -> ColumnProfile:
    present = values.drop_nulls()
    distinct = present.n_unique() if kind != "other" else 0
    is_id = kind == "category" or (kind == "number" and _is_id_name(name))
    is_unique = is_id and distinct == len(values) >= _MIN_ROWS
    return ColumnProfile(name, kind, distinct, values.null_count(), _unfit(name, kind, present, distinct), is_unique)


def _is_id_name(name: str) -> bool:
    """Whether numbers of a column of this name count or identify rows."""
    return name.lower() in ("index", "row", "rownames") or name.lower().endswith("id")


def _unfit(name: str, kind: Kind | Literal["other"], present: pl.Series, distinct: int) -> str:
    """Why a column is no feature."""
    if kind == "other":
        return f"{present.dtype} is no column of a table of features"
    if kind == "timestamp":
        return "a time: derive a number from it, such as rl.derive(..., pl.col(...).dt.hour())"
    if name in RESERVED:
        return "the name is that of a column of the training frame: rename it to use it"
    if distinct < 2:
        return "it has the same value in all sampled rows"
    if kind == "number" and _is_id_name(name) and distinct > _NEARLY_UNIQUE * len(present) >= _MIN_ROWS:
        return "an id: nearly each row has its own value"
    if kind == "category" and len(present) >= _MIN_ROWS:
        if float(present.str.len_chars().mean() or 0.0) > _TEXT_LENGTH:  # type: ignore[arg-type]
            return "text: derive a category or a number from it to use it"
        if distinct > _NEARLY_UNIQUE * len(present):
            return "an id or text: nearly each row has its own value"
    return ""
