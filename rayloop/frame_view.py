"""A training frame in memory: its rows by split, its weak labels, and the encoder fitted to the rows to train on."""

from __future__ import annotations

import copy
from datetime import datetime

import numpy as np
import polars as pl
import pyarrow as pa

from cluster.errors import DataError
from cluster.values import Snapshot
from features.encoder import Encoder
from features.offline.training_frame import purged_rows
from features.offline.weak_frame import weak_estimate
from features.split import PARTS, SPLIT, TRAIN
from features.types import AS_OF, ID, LABEL, WEIGHT
from rayloop.context import ProjectContext
from trainers.data.datasets import TrainingData
from trainers.data.group_weights import GroupWeights

MIN_CATEGORY_ROWS = 20


class FrameView:
    """The rows of a snapshot, and the encoder fitted to the rows to train on.

    Args:
        context: The project.
        snapshot: The training frame.
        weak: Snapshot of the weak frame; None: no weak labels.

    Raises:
        DataError: A split is empty.
    """

    reweighed_by: str = ""
    """Columns whose groups the weights of training rows make independent of labels, and the least rows of a group."""

    def __init__(self, context: ProjectContext, snapshot: Snapshot, weak: Snapshot | None = None) -> None:
        self.snapshot, self.weak_snapshot = snapshot, weak
        self.rows = context.tables.read(snapshot.table, snapshot.id)
        self.purged = purged_rows(context.tables, snapshot)
        self.weak_rows = context.tables.read(weak.table, weak.id) if weak else None
        self.weak_labels = weak_estimate(context.tables, weak) if weak else None
        self.encoder = Encoder.fit(context.project.features.columns, self._rows_to_encode(), MIN_CATEGORY_ROWS)
        for name in PARTS:
            if not self.rows_of(name).num_rows:
                raise DataError("data.empty_split", split=name)
        fair = context.project.gate.fairness
        datasets = context.tables.dataset(snapshot), context.tables.dataset(weak) if weak else None
        self.data = self.unweighted_data = TrainingData(*datasets)
        if fair.mitigate == "reweigh":
            self.reweighed_by = f"{', '.join(fair.groups)}, {fair.min_rows} rows"
            groups = GroupWeights.fit(self.training_rows(), fair.groups, fair.min_rows)
            self.data = TrainingData(*datasets, groups)

    def rows_of(self, split: str) -> pa.Table:
        """Return the rows of a split."""
        return self.rows.filter(pa.compute.equal(self.rows[SPLIT], split))

    def training_rows(self) -> pa.Table:
        """Return all rows to train on; with weak labels, with the column WEIGHT."""
        rows = self.rows_of(TRAIN)
        if self.weak_rows is None:
            return rows
        weighted = rows.append_column(WEIGHT, pa.array(np.ones(rows.num_rows)))
        return pa.concat_tables(
            [weighted.select(self.weak_rows.column_names), self.weak_rows], promote_options="default"
        )

    def _rows_to_encode(self) -> pa.Table:
        """The training rows, each once: a weak label has a row for each class."""
        rows = self.rows_of(TRAIN)
        if self.weak_rows is None:
            return rows
        once = pl.DataFrame(self.weak_rows).unique(ID, keep="first", maintain_order=True).to_arrow()
        return pa.concat_tables([rows, once.select(rows.column_names).cast(rows.schema)])

    @property
    def weights_key(self) -> dict[str, str]:
        """What weights of rows add to fingerprints of what is trained on the frame; empty without them."""
        weak = {"weak": f"{self.weak_snapshot.table}@{self.weak_snapshot.id}"} if self.weak_snapshot else {}
        return weak | ({"reweighed_by": self.reweighed_by} if self.reweighed_by else {})

    def with_encoder(self, encoder: Encoder) -> FrameView:
        """Return the same rows, encoded by an encoder that other rows fitted."""
        view = copy.copy(self)
        view.encoder = encoder
        return view

    @property
    def period(self) -> tuple[datetime, datetime]:
        """Times of the first and the last row."""
        first, last = (each.as_py() for each in pa.compute.min_max(self.rows[AS_OF]).values())
        return first, last

    def with_shuffled_labels(self, seed: int) -> TrainingData:
        """Return the same rows with the training labels shuffled."""
        rows = pl.DataFrame(self.rows)
        shuffled = rows.filter(pl.col(SPLIT) == TRAIN).with_columns(pl.col(LABEL).shuffle(seed=seed))
        return TrainingData(pl.concat([shuffled, rows.filter(pl.col(SPLIT) != TRAIN)]).to_arrow())


def thin_rows(table: pa.Table, most: int) -> pa.Table:
    """Return every k-th row of a table, so that at most ``most`` remain."""
    return table.take(np.arange(0, table.num_rows, max(1, -(-table.num_rows // most))))
