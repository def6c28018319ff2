"""A simulated rollout whose evidence goes through the product: split, copies, log rows, collector, verdict."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.evidence.rows import TASK, Scores, draw
from cluster.values import ModelVersion
from deployments.analysis.evidence import RolloutEvidence
from deployments.analysis.evidence_collector import EvidenceCollector
from deployments.analysis.verdict import Verdict, judge
from deployments.rollout_policy import RolloutPolicy
from deployments.serve_schema import TrafficSplit
from deployments.telemetry.prediction_log import Copied, PredictionBatch, label_rows, prediction_rows
from deployments.traffic_split import assign_variant, choose_copy

CHAMPION, CHALLENGER = "1", "2"

_LOOK_US = 2_000_000
"""Between two looks: requests of different looks do not fail together."""
_VERSION = ModelVersion(model="m", version=CHALLENGER, run_id="", bundle_uri="")


class Traffic(NamedTuple):
    """What the requests are like."""

    noise: float = 0.0
    """Spread of the noise that the challenger's log-odds have beside the champion's."""
    shared: bool = False
    """Whether the challenger also has the champion's noise."""
    error_rate: float = 0.0
    """Fraction of the requests that the challenger fails."""
    unanswered: float = 0.0
    """Fraction of the requests that it does not answer in time."""
    dropped: float = 0.0
    """Fraction of the copies that are dropped."""


class LoggedRollout:
    """One challenger against the champion, one row a request, each with its own key and labeled at once.

    Args:
        policy: Steps and criteria.
        seed: Seed of the random numbers.
        traffic: What the requests are like.
    """

    def __init__(self, policy: RolloutPolicy, seed: int, traffic: Traffic) -> None:
        self.policy, self.traffic = policy, traffic
        self.rows = 0
        self._chance, self._name = np.random.default_rng(seed), f"r{seed}"
        self._log = EvidenceCollector(self._name, (CHALLENGER,))

    def serve(self, rows: int, share: float) -> None:
        """Answer requests at a share, and label them."""
        split = TrafficSplit(
            rollout=self._name, challengers=(_VERSION,), share=share, timeout_s=1.0, copies=self.policy.copies
        )
        ids = [f"q{self.rows + i}" for i in range(rows)]
        scores = draw(self._chance, rows, self.traffic.noise, self.traffic.shared)
        outcomes: defaultdict[tuple[bool, Copied | None, bool], list[int]] = defaultdict(list)
        for i, id in enumerate(ids):
            outcomes[self._outcome(split, id)].append(i)
        batches = [self._batch(split, ids, scores, indices, *key) for key, indices in outcomes.items()]
        self._log.add_predictions(prediction_rows(batches, "b"))
        labels = {"id": ids, "label": scores.labels, "time": pa.nulls(rows, pa.timestamp("us", "UTC"))}
        self._log.add_labels(label_rows(pa.table(labels), 0, "b"))
        self.rows += rows

    def evidence(self) -> RolloutEvidence:
        return self._log.evidence(TASK)[CHALLENGER]

    def judge(self, share: float) -> Verdict:
        return judge(self.evidence(), share, 0.0, self.policy)

    def _outcome(self, split: TrafficSplit, id: str) -> tuple[bool, Copied | None, bool]:
        """Whether the challenger was to answer, what became of the copy, and whether the challenger has no scores."""
        late, failed, dropped = self._chance.random(3) < (
            self.traffic.unanswered,
            self.traffic.error_rate,
            self.traffic.dropped,
        )
        if assign_variant(split, id) is not None:
            return True, None, bool(late or failed)
        if choose_copy(split, id) is None:
            return False, None, True
        copied: Copied = "dropped" if dropped else "unanswered" if late else "failed" if failed else "scored"
        return False, copied, copied != "scored"

    def _batch(
        self,
        split: TrafficSplit,
        ids: list[str],
        scores: Scores,
        indices: list[int],
        own: bool,
        copied: Copied | None,
        without: bool,
    ) -> PredictionBatch:
        """Requests that ended alike, as a replica logs them."""
        called = own or copied not in (None, "dropped")
        answered = own and not without
        names = [ids[i] for i in indices]
        as_of = pa.array([0] * len(indices), pa.timestamp("us", "UTC"))
        return PredictionBatch(
            requests=names,
            keys=names,
            forced=[False] * len(indices),
            sizes=[1] * len(indices),
            frame=pa.table({"x": np.zeros(len(indices)), "as_of": as_of}),
            task=TASK,
            champion_version=CHAMPION,
            version=CHALLENGER if answered else CHAMPION,
            assigned="challenger" if own else "champion",
            variant="challenger" if answered else "champion",
            at_us=self.rows * _LOOK_US,
            champion_latency_ms=1.0,
            challenger_latency_ms=1.0 if answered else None,
            rollout=split.rollout,
            share=split.share,
            champion_share=split.champion_share,
            challenger_version=CHALLENGER if called else None,
            champion=scores.champion[indices],
            challenger=None if without else scores.challenger[indices],
            error="failed" if called and without else None,
            copied=copied,
        )
