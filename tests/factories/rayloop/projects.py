"""A small project, and a training frame without tables."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pyarrow as pa
import pytest

from cluster.values import Snapshot
from features.builders import derive
from features.definitions import Column, FeatureSet
from features.encoder import Encoder
from features.offline.purge import Purged
from features.sources.source import Examples, Source
from features.split import TimeSplit
from rayloop.frame_view import FrameView
from rayloop.project import Project
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part
from trainers.config import ModelSpec, TrainConfig
from trainers.evaluation.quality_gate import GatePolicy

CONFIG = TrainConfig(epochs=2, batch_size=64, workers=1)
SPEC = ModelSpec(parameters={"hidden": (16,)})
AT = Column(name="at", kind="timestamp")


class InMemoryFrame(FrameView):
    """A frame without tables; its rows after the first 600 are for test."""

    def __init__(self) -> None:
        rows, more = frame(), frame(rows=1000, seed=7)
        tested = more.set_column(more.column_names.index("split"), "split", pa.array(["test"] * more.num_rows))
        self.rows = pa.concat_tables([rows, tested])
        self.snapshot = Snapshot(table="late.frame", id=1, rows=self.rows.num_rows)
        self.encoder = Encoder.fit(COLUMNS, part(rows, "train"))
        self.purged = Purged(late={"train": 3, "validation": 0, "test": 2}, straddling={"test": 1})
        self.weak_snapshot = self.weak_rows = self.weak_labels = None
        self.data = None  # type: ignore[assignment]


def late_project(gate: GatePolicy) -> Project:
    """A binary project over the rows of tests/factories/trainers/frames.py."""
    start, validate, test, end = (datetime(2024, 1, day, tzinfo=UTC) for day in (1, 2, 3, 4))
    return Project(
        name="late",
        task=TASKS["binary"],
        sources=(
            Source(
                name="rows",
                key=("color",),
                columns=(*COLUMNS, AT),
                event_time="at",
                known_at="at",
                read=lambda: pytest.fail("nothing is read here"),
            ),
        ),
        features=FeatureSet(name="late", request=(*COLUMNS, AT), as_of=derive("as_of", pl.col("at"), "timestamp")),
        examples=Examples(source="rows", id="color", label=pl.col("plain") > 0, label_known_at="at"),
        split=TimeSplit(start=start, validate_from=validate, test_from=test, end=end),
        model=SPEC,
        train=CONFIG,
        gate=gate,
        purpose="Say who will be late",
        limits=("Not for Mondays",),
    )
