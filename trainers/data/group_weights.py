"""Weights of training rows that make labels independent of groups. Imports no torch, which would delay each worker.

Kamiran, Calders, "Data preprocessing techniques for classification without discrimination", Knowledge and Information
Systems 33, 2012, section 5.2: a row of group g with label y counts P(g) P(y) / P(g, y) times. The shares of groups and
of labels stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl
import pyarrow as pa

from features.disparity import group_names
from features.types import LABEL, WEIGHT

_FACTOR = "__factor__"


@dataclass(frozen=True)
class GroupWeights:
    """Factor of each group and label.

    Attributes:
        columns: Columns whose values, together, are the groups.
        factors: The factors, by the values of the columns and the label.
    """

    columns: tuple[str, ...]
    factors: pl.DataFrame

    @classmethod
    def fit(cls, rows: pa.Table, columns: Sequence[str], min_rows: int) -> Self:
        """Compute the factors from the rows to train on.

        Args:
            rows: The rows, with their labels; with the column WEIGHT, a row counts that much.
            columns: Columns of the groups.
            min_rows: Groups with fewer rows, by their weight, keep their weights: their shares of labels are uncertain.
        """
        count = rows[WEIGHT].to_numpy() if WEIGHT in rows.column_names else np.ones(rows.num_rows)
        frame = _cells(rows, columns).with_columns(pl.Series(WEIGHT, count, pl.Float64))
        large = frame.filter(pl.col(WEIGHT).sum().over(columns) >= min_rows)
        cells = large.group_by(*columns, LABEL).agg(pl.col(WEIGHT).sum()).sort(*columns, LABEL)
        independent = pl.col(WEIGHT).sum().over(columns) * pl.col(WEIGHT).sum().over(LABEL) / pl.col(WEIGHT).sum()
        return cls(tuple(columns), cells.with_columns((independent / pl.col(WEIGHT)).alias(_FACTOR)).drop(WEIGHT))

    def of(self, rows: pa.Table) -> np.ndarray:
        """The factor of each row [n]; 1 for a row of no such group."""
        on = [*self.columns, LABEL]
        joined = _cells(rows, self.columns).join(self.factors, on=on, how="left", maintain_order="left")
        return joined[_FACTOR].fill_null(1.0).to_numpy()


def _cells(rows: pa.Table, columns: Sequence[str]) -> pl.DataFrame:
    groups = {column: pl.Series(group_names(rows[column]).tolist(), dtype=pl.String) for column in columns}
    return pl.DataFrame(groups | {LABEL: pl.Series(rows[LABEL].to_numpy(), dtype=pl.Float64)})
