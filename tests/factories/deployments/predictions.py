"""Batches of predictions, and labels for them, as a replica logs them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from deployments.telemetry.prediction_log import Copied, PredictionBatch, label_rows
from tests.factories.deployments.tasks import BINARY


def feature_rows(rows: int, at_us: int = 0) -> pa.Table:
    as_of = pa.array([at_us] * rows, pa.timestamp("us", tz="UTC"))
    return pa.table({"distance": np.arange(rows, dtype=float), "as_of": as_of})


def prediction_batch(
    id: str, champion: float | None = 0.5, challenger: float | None = None, rows: int = 1, **rest
) -> PredictionBatch:
    """An answer dealt to the challenger when that has a score or an error."""
    to_challenger = challenger is not None or rest.get("error") is not None
    values = {
        "requests": [id],
        "keys": [id],
        "forced": [False],
        "sizes": [rows],
        "frame": feature_rows(rows),
        "task": BINARY,
        "champion_version": "1",
        "version": "2" if challenger is not None else "1",
        "assigned": "challenger" if to_challenger else "champion",
        "variant": "challenger" if challenger is not None else "champion",
        "at_us": 0,
        "champion_latency_ms": None if champion is None else 2.0,
        "challenger_latency_ms": None if challenger is None else 2.0,
        "rollout": "r",
        "share": 0.5,
        "champion_share": 1.0 - rest.get("share", 0.5) if rest.get("share", 0.5) is not None else None,
        "challenger_version": "2" if to_challenger else None,
        "champion": None if champion is None else np.full(rows, champion, np.float32),
        "challenger": None if challenger is None else np.full(rows, challenger, np.float32),
    }
    if "key" in rest:
        values["keys"] = [rest.pop("key")]
    return PredictionBatch(**(values | rest))


def copied_batch(id: str, outcome: Copied, challenger: float | None = None, **rest: Any) -> PredictionBatch:
    """An answer of the champion of which a challenger, v2 unless said otherwise, was sent a copy."""
    error = {"failed": "ValueError: no", "unanswered": "no answer within 1 s"}.get(outcome)
    scores = None if challenger is None else np.full(rest.get("rows", 1), challenger, np.float32)
    fields = {"challenger_version": "2", "error": error} | rest
    answer = prediction_batch(id, **fields | {"assigned": "champion"})
    return replace(answer, copied=outcome, challenger=scores, challenger_latency_ms=None)


def label_table(rows: dict[str, float], received_us: int = 0) -> pa.Table:
    times = pa.array([None] * len(rows), pa.timestamp("us", tz="UTC"))
    return label_rows(pa.table({"id": list(rows), "label": list(rows.values()), "time": times}), received_us, "b")
