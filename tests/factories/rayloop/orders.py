"""Orders of a shop: a table of files and the project that predicts from it which orders come late."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from cluster.values import Task
from features.builders import category, number, rolling, timestamp
from features.definitions import Entity, FeatureSet, FeatureView
from features.sources.readers import SourceReader
from features.sources.source import Examples, Source
from features.split import Split, TimeSplit
from rayloop.project import Project
from trainers.config import ModelSpec, TrainConfig
from trainers.evaluation.quality_gate import GatePolicy

ROWS, DAYS = 1200, 60
START = datetime(2024, 1, 1, tzinfo=UTC)
SPLIT = TimeSplit(
    start=START,
    validate_from=START + timedelta(days=40),
    test_from=START + timedelta(days=50),
    end=START + timedelta(days=DAYS + 1),
)
NOTHING = SourceReader("nowhere", lambda columns: NotImplemented)


def orders() -> pl.DataFrame:
    """1,200 orders of 60 days by 30 customers, delivered six hours later."""
    draw = np.random.default_rng(0)
    at = [START + timedelta(days=DAYS) * i / ROWS for i in range(ROWS)]
    return pl.DataFrame(
        {
            "order": [f"o{i}" for i in range(ROWS)],
            "customer": [f"c{i}" for i in draw.integers(0, 30, ROWS)],
            "price": draw.lognormal(3, 1, ROWS),
            "late": draw.integers(0, 2, ROWS),
            "ordered_at": at,
            "delivered_at": [moment + timedelta(hours=6) for moment in at],
        }
    )


def orders_source(read: SourceReader = NOTHING, **changes: Any) -> Source:
    """The table as a source; ``changes`` replace its fields."""
    declared: dict[str, Any] = {
        "name": "orders",
        "read": read,
        "key": ("order",),
        "columns": (
            *category("order", "customer"),
            *number("price", "late"),
            *timestamp("ordered_at", "delivered_at"),
        ),
        "event_time": "ordered_at",
        "known_at": "delivered_at",
    }
    return Source(**declared | changes)


def orders_project(
    source: Source | None = None,
    request: tuple[Any, ...] = (*category("customer"), *number("price")),
    label: pl.Expr | None = None,
    task: Task | None = None,
    split: Split = SPLIT,
    label_known_at: str = "delivered_at",
    **changes: Any,
) -> Project:
    """The project; ``changes`` replace its other fields."""
    declared: Mapping[str, Any] = {
        "model": ModelSpec(),
        "train": TrainConfig(),
        "gate": GatePolicy(),
        "features": FeatureSet(name="orders", request=request, views=(spending(),)),
    }
    return Project(
        name="orders",
        task=task or Task(kind="binary", label="late"),
        sources=(source or orders_source(),),
        examples=Examples(
            source="orders",
            id="order",
            label=pl.col("late") if label is None else label,
            label_known_at=label_known_at,
            event_time="ordered_at",
        ),
        split=split,
        **{**declared, **changes},
    )


def spending(column: str = "price", known_at: str = "delivered_at") -> FeatureView:
    """A view of what a customer's orders were like in the week before."""
    return FeatureView(
        name="spending",
        entity=Entity(name="customer", keys=("customer",)),
        source="orders",
        event_time="ordered_at",
        known_at=known_at,
        aggregates=rolling(column, timedelta(days=7), "spent_7d"),
    )
