"""Rows that a time split purges: their numbers, and the groups that would straddle. Pure; training_frame.py runs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Self

import polars as pl
from pydantic import Field

from cluster.values import Stored
from features.split import GROUP, PARTS, SPLIT, Split

PART = "__part"
"""Column with the part that a row's time is in, whether or not its label was known."""
_FIRST = "__first"
_POSITION = pl.col(SPLIT).replace_strict(PARTS, range(len(PARTS)), return_dtype=pl.UInt8)

Counts = Mapping[str, int]
"""Rows by part."""


class Purged(Stored, stored_as="counts of purged rows"):
    """How many rows of each part were left out of a training frame, and why."""

    late: Counts = Field(default_factory=dict)
    """Rows whose label was not known by the end of their part."""
    straddling: Counts = Field(default_factory=dict)
    """Other rows whose group is in an earlier part."""

    def __bool__(self) -> bool:
        return any(self.total(part) for part in PARTS)

    def __str__(self) -> str:
        reasons = {"label known too late": self.late, "group in an earlier part": self.straddling}
        return "; ".join(f"{_format(counts)} rows ({why})" for why, counts in reasons.items() if any(counts.values()))

    @classmethod
    def between(cls, dated: Counts, known: Counts, kept: Counts) -> Self:
        """Return what was purged between the rows by date, those of known labels, and those that are left."""
        late = {part: dated.get(part, 0) - known.get(part, 0) for part in PARTS}
        return cls(late=late, straddling={part: known.get(part, 0) - kept.get(part, 0) for part in PARTS})

    def total(self, part: str) -> int:
        """Return the number of rows that a part lost."""
        return self.late.get(part, 0) + self.straddling.get(part, 0)


class BlockCounts(NamedTuple):
    """Of the rows of a block: numbers by date, and of known labels; and the first part of each group, by its hash."""

    dated: dict[str, int]
    known: dict[str, int]
    groups: pl.DataFrame


def assign_parts(rows: pl.DataFrame, split: Split) -> pl.DataFrame:
    """Add the columns PART and SPLIT to examples, without those outside the split. SPLIT is null for a late label."""
    parts = rows.with_columns(split.part_expr().alias(PART), split.split_expr().alias(SPLIT))
    return parts.filter(pl.col(PART).is_not_null())


def count_block(rows: pl.DataFrame) -> BlockCounts:
    """Count the rows of a block that has PART, SPLIT and, for a split by groups, GROUP."""
    groups = pl.DataFrame(schema={GROUP: pl.UInt64, _FIRST: pl.UInt8, "last": pl.UInt8})
    if GROUP in rows.columns:
        known = rows.filter(pl.col(SPLIT).is_not_null() & pl.col(GROUP).is_not_null())
        groups = known.group_by(GROUP).agg(_POSITION.min().alias(_FIRST), _POSITION.max().alias("last"))
    return BlockCounts(count_parts(rows, PART), count_parts(rows, SPLIT), groups)


def count_parts(rows: pl.DataFrame, column: str = SPLIT) -> dict[str, int]:
    """Count rows by part, except those of no part."""
    return dict(rows.drop_nulls(column).group_by(column).len().iter_rows())


def add_counts(counts: Iterable[Counts]) -> dict[str, int]:
    """Add the counts of blocks."""
    blocks = list(counts)
    return {part: sum(block.get(part, 0) for block in blocks) for part in PARTS}


def straddling_groups(blocks: Sequence[BlockCounts]) -> pl.DataFrame:
    """Return the groups that are in several parts, with the position of the first."""
    groups = pl.concat([block.groups for block in blocks]).group_by(GROUP).agg(pl.min(_FIRST), pl.max("last"))
    return groups.filter(pl.col(_FIRST) < pl.col("last")).drop("last")


def keep_rows(rows: pl.DataFrame, straddling: pl.DataFrame | None = None) -> pl.DataFrame:
    """Return the rows that are in a part, without those of a group whose first row is in an earlier part."""
    known = rows.filter(pl.col(SPLIT).is_not_null())
    if straddling is not None and not straddling.is_empty():
        known = known.join(straddling, on=GROUP, how="left", maintain_order="left")
        known = known.filter(pl.col(_FIRST).is_null() | (pl.col(_FIRST) == _POSITION)).drop(_FIRST)
    return known.drop(PART, GROUP, strict=False)


def _format(counts: Counts) -> str:
    return ", ".join(f"{counts[part]:,} {part}" for part in PARTS if counts.get(part))
