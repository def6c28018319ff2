"""A champion that answers at once, and a reporter that records, to test what an engine does with requests."""

from __future__ import annotations

from typing import Any

import numpy as np

from deployments.inference.predictor import ScoredBatch
from deployments.protocol.request_rows import RequestRows
from deployments.telemetry.prediction_log import PredictionBatch
from tests.factories.deployments.predictions import feature_rows
from tests.factories.deployments.tasks import BINARY


class InstantChampion:
    """Scores every row 0.5, at once."""

    version = "1"
    is_remote = False

    class manifest:  # noqa: N801
        task = BINARY

        class features:  # noqa: N801
            columns = ()

    async def score(self, requests: list[RequestRows], now_us: int) -> list[ScoredBatch]:
        sizes = tuple(rows.size for rows in requests)
        return [ScoredBatch(sizes, feature_rows(sum(sizes)), np.full(sum(sizes), 0.5, np.float32), 1.0)]

    def build_table(self, requests: list[RequestRows]) -> Any:
        return feature_rows(sum(rows.size for rows in requests))


class RecordingReporter:
    """Records the reports."""

    def __init__(self) -> None:
        self.answers: list[PredictionBatch] = []
        self.announced = 0
        self.dropped = 0

    def announce_predictions(self, rows: int) -> None:
        self.announced += rows

    def record_predictions(self, answer: PredictionBatch, *context: object) -> None:
        self.answers.append(answer)

    def record_dropped_copies(self, requests: int) -> None:
        self.dropped += requests

    def close(self, within_s: float) -> None:
        """Nothing is left."""
