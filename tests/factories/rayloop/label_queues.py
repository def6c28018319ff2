"""Rows of the label queue as a labeler gets them."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl

from cluster.values import Task

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


def queue(task: Task, *ids: str, **features: object) -> pl.DataFrame:
    """A queue of rows with these ids, all with the same features."""
    served = features or {"distance": 2.5, "carrier": "AA"}
    predicted = task.classes[0] if task.classes else None
    rows = [
        {
            "id": id, "why": "expected loss 0.25", "request": id.partition("/")[0], "row": i, "version": "1",
            "at": NOON, "as_of": NOON, "score": 0.5, "predicted": predicted, "features": served,
        }
        for i, id in enumerate(ids)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema_overrides={"predicted": pl.String})
