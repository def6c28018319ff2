"""Keeps the first rows that both variants scored, to compare their scores without labels. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from cluster.row_losses import Metric
from cluster.values import Task
from deployments.analysis.group_decisions import GroupDecisions, count_decisions
from deployments.analysis.paired_predictions import PairedPrediction
from deployments.analysis.score_agreement import ScoreAgreement
from features.disparity import DisparityLimit

MAX_ROWS = 10_000
"""Rows that are kept at each share."""


class ScoredRows:
    """The first rows at each share that both variants scored."""

    def __init__(self, most: int = MAX_ROWS) -> None:
        self._most = most
        self._rows: dict[float, list[PairedPrediction]] = defaultdict(list)
        self._agreements: dict[tuple[object, ...], ScoreAgreement] = {}
        self._decisions: dict[tuple[object, ...], GroupDecisions] = {}

    def add(self, pair: PairedPrediction) -> None:
        """Add a row, unless its share has enough."""
        if len(self._rows[pair.share]) < self._most:
            self._rows[pair.share].append(pair)
            self._agreements.clear()
            self._decisions.clear()

    def agreement(self, task: Task, metric: Metric, share: float | None = None) -> ScoreAgreement:
        """Compare the rows of one share; None: of all."""
        key = (task, metric, share)
        if key not in self._agreements:
            pairs = self._pairs(share)
            scores = [np.array([getattr(pair, variant) for pair in pairs]) for variant in ("champion", "challenger")]
            keys = np.array([pair.key for pair in pairs])
            self._agreements[key] = ScoreAgreement.from_scores(task, scores[0], scores[1], metric, keys)
        return self._agreements[key]

    def decisions(
        self, limits: tuple[DisparityLimit, ...], columns: Sequence[str], task: Task, share: float | None = None
    ) -> GroupDecisions:
        """Count decisions by group, for rates that need no labels, on the rows of one share; None: of all."""
        key = (task, tuple(limit.name for limit in limits), share)
        if key not in self._decisions:
            self._decisions[key] = count_decisions(limits, columns, task, self._pairs(share))
        return self._decisions[key]

    def _pairs(self, share: float | None) -> list[PairedPrediction]:
        shares = list(self._rows) if share is None else [share]
        return [pair for of_share in shares for pair in self._rows.get(of_share, ())]
