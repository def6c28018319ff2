"""A training frame in memory: its rows by split, and the encoder fitted to its training rows."""

from __future__ import annotations

from datetime import datetime

import polars as pl
import pyarrow as pa

from cluster.errors import DataError
from cluster.values import Snapshot
from features.encoder import Encoder
from features.offline.training_frame import purged_rows
from features.split import PARTS, SPLIT, TRAIN
from features.types import AS_OF, LABEL
from rayloop.context import ProjectContext
from trainers.data.datasets import TrainingData

MIN_CATEGORY_ROWS = 20


class FrameView:
    """The rows of a snapshot, and the encoder fitted to its training rows. Raises DataError when a split is empty."""

    def __init__(self, context: ProjectContext, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.rows = context.tables.read(snapshot.table, snapshot.id)
        self.purged = purged_rows(context.tables, snapshot)
        self.encoder = Encoder.fit(context.project.features.columns, self.rows_of(TRAIN), MIN_CATEGORY_ROWS)
        for name in PARTS:
            if not self.rows_of(name).num_rows:
                raise DataError("data.empty_split", split=name)
        self.data = TrainingData(context.tables.dataset(snapshot))

    def rows_of(self, split: str) -> pa.Table:
        """Return the rows of a split."""
        return self.rows.filter(pa.compute.equal(self.rows[SPLIT], split))

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
