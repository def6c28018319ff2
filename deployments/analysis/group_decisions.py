"""Decisions of both variants on the same rows, counted by group, as statistics that merge by addition. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from cluster.names import CHALLENGER, CHAMPION
from cluster.values import Additive, Frozen, Task
from features.disparity import DisparityLimit, group_names, rate_hits

if TYPE_CHECKING:
    # It imports the evidence, of which the counts here are a part.
    from deployments.analysis.paired_predictions import PairedPrediction

FEATURES = "features"
"""Column of the prediction log that has the feature frame, a struct."""


class GroupCounts(Additive):
    """Hits of a rate among the rows of a group that both variants scored."""

    rows: int = 0
    champion: int = 0
    challenger: int = 0
    both: int = 0
    key_pairs: int = 0
    """Ordered pairs of different rows of one key."""

    @classmethod
    def count(cls, champion: np.ndarray, challenger: np.ndarray, keys: np.ndarray) -> Self:
        """Count the hits [n], 0 or 1, of both variants, and the key of each row."""
        _, sizes = np.unique(keys, return_counts=True)
        return cls(
            rows=len(keys),
            champion=int(champion.sum()),
            challenger=int(challenger.sum()),
            both=int(champion @ challenger),
            key_pairs=int(sizes @ (sizes - 1)),
        )

    @property
    def rates(self) -> tuple[float, float]:
        """Rates of the champion and of the challenger; 0 without rows."""
        rows = max(self.rows, 1)
        return self.champion / rows, self.challenger / rows

    @property
    def effective_rows(self) -> float:
        """Effective sample size when all rows of one key are alike (Kish, "Survey sampling", 1965, section 8.2)."""
        return self.rows**2 / (self.rows + self.key_pairs) if self.rows else 0.0


class GroupDecisions(Frozen):
    """Counts by limit and group."""

    by_limit: dict[str, dict[str, GroupCounts]] = Field(default_factory=dict)

    def __add__(self, other: GroupDecisions) -> GroupDecisions:
        names = self.by_limit.keys() | other.by_limit.keys()
        return GroupDecisions(by_limit={name: _merged(self.of(name), other.of(name)) for name in sorted(names)})

    def of(self, name: str) -> dict[str, GroupCounts]:
        """Counts of one limit, by group."""
        return self.by_limit.get(name, {})


def count_decisions(
    limits: Sequence[DisparityLimit],
    columns: Sequence[str],
    task: Task,
    pairs: Sequence[PairedPrediction],
    labels: np.ndarray | None = None,
) -> GroupDecisions:
    """Count the hits of each limit's rate.

    Args:
        limits: Limits.
        columns: Columns that the groups of the rows are of.
        task: Task of the model.
        pairs: Rows that both variants scored.
        labels: Labels [n]; None: there are none.
    """
    if not limits or not pairs:
        return GroupDecisions()
    known = np.full(len(pairs), np.nan) if labels is None else labels
    scores = [np.array([getattr(pair, variant) for pair in pairs]) for variant in (CHAMPION, CHALLENGER)]
    keys, groups = np.array([pair.key for pair in pairs]), np.array([pair.groups for pair in pairs], object)
    by_limit = {
        limit.name: _count(limit, task, scores, known, groups[:, columns.index(limit.column)], keys) for limit in limits
    }
    return GroupDecisions(by_limit=by_limit)


def _count(
    limit: DisparityLimit,
    task: Task,
    scores: Sequence[np.ndarray],
    labels: np.ndarray,
    groups: np.ndarray,
    keys: np.ndarray,
) -> dict[str, GroupCounts]:
    champion, challenger = (rate_hits(limit, task, of_variant, labels) for of_variant in scores)
    counted = np.isfinite(champion)
    return {
        name: GroupCounts.count(champion[here], challenger[here], keys[here])
        for name in limit.groups
        if (here := counted & (groups == name)).any()
    }


def limit_columns(limits: Iterable[DisparityLimit]) -> tuple[str, ...]:
    """Columns whose groups are compared, in the order in which rows have their groups."""
    return tuple(sorted({limit.column for limit in limits}))


def group_rows(rows: pa.Table, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The groups of each row, in the order of ``columns``; "" where the log lacks a column."""
    if not columns:
        return [()] * rows.num_rows
    values = [_group_column(rows, column).tolist() for column in columns]
    return list(zip(*values, strict=True))


def _group_column(rows: pa.Table, column: str) -> np.ndarray:
    """Rows of a replica have the whole feature frame, those of the tables only these columns, flattened."""
    if (flat := f"{FEATURES}.{column}") in rows.column_names:
        return group_names(rows.column(flat))
    if FEATURES in rows.column_names and rows.schema.field(FEATURES).type.get_field_index(column) >= 0:
        return group_names(pc.struct_field(rows.column(FEATURES), column))
    return np.full(rows.num_rows, "", object)


def _merged(one: dict[str, GroupCounts], other: dict[str, GroupCounts]) -> dict[str, GroupCounts]:
    names = sorted(one.keys() | other.keys())
    return {name: one.get(name, GroupCounts()) + other.get(name, GroupCounts()) for name in names}
