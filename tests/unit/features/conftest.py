from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest

from features.types import INSTANT
from tests.factories.features.views import EPOCH


@pytest.fixture
def hourly_events() -> pl.DataFrame:
    """Five days of one event an hour for one entity."""
    times = [EPOCH + timedelta(hours=h) for h in range(120)]
    frame = pl.DataFrame(
        {"a": "p", "b": "q", "happened": times, "known": times, "x": [h / 10 for h in range(120)], "c": "u"}
    )
    return frame.with_columns(pl.col("happened", "known").cast(INSTANT))
