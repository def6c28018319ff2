"""Simulated rollouts of several challengers, with the real traffic split, verdicts and state machine."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cluster.row_losses import row_loss
from cluster.values import Decision
from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence, VariantStats, pairwise_share
from deployments.analysis.latency_histogram import LatencyHistogram
from deployments.analysis.paired_moments import PairedMoments
from deployments.rollout.multi_challenger import decide, judge_all
from deployments.rollout.state_machine import RolloutState, apply_decision, begin
from deployments.rollout_policy import RolloutPolicy
from deployments.traffic_split import find_slice
from tests.factories.deployments.tasks import BINARY

CHAMPION = "1"
_NOISE = 0.3
_ERROR_RATE = 0.005


class RolloutSimulation:
    """A rollout on simulated traffic.

    Args:
        seed: Seed of the random numbers.
        noise: By version, the champion's included: spread of the error that it adds to a row's logit.
        policy: Policy of the rollout.
    """

    def __init__(self, seed: int, noise: Mapping[str, float], policy: RolloutPolicy) -> None:
        self._chance, self._noise, self._seed = np.random.default_rng(seed), noise, seed
        challengers = [version for version in noise if version != CHAMPION]
        self.state = begin(f"r{seed}", "trips", CHAMPION, challengers, policy, 0.0)
        self.decisions: list[Decision] = []
        self._evidence: dict[str, dict[float, ComparisonEvidence]] = {version: {} for version in challengers}
        self._sent = 0

    def run(self, passes: int, requests: int) -> RolloutState:
        """Judge after each batch of requests, until the rollout ends or after the given number of passes."""
        for now in range(1, passes + 1):
            if self.state.active:
                self._serve(requests)
                self._judge(float(now))
        return self.state

    @property
    def dropped(self) -> list[str]:
        return [version for one in self.decisions if one.action in ("drop", "abort") for version in one.challengers]

    def _serve(self, requests: int) -> None:
        state = self.state
        keys = [f"user-{self._sent + i}" for i in range(requests)]
        self._sent += requests
        slices = [find_slice(state.id, key, state.share, state.starts) for key in keys]
        champion = self._variant_stats(slices.count(None))
        share = pairwise_share(state.share, 1.0 - len(state.challengers) * state.share)
        for index, version in enumerate(state.challengers):
            rows = slices.count(index)
            evidence_now = ComparisonEvidence(
                champion=champion, challenger=self._variant_stats(rows), paired=self._paired(version, rows)
            )
            self._evidence[version][share] = self._evidence[version].get(share, ComparisonEvidence()) + evidence_now

    def _judge(self, now: float) -> None:
        evidence = {version: RolloutEvidence(by_share=by_share) for version, by_share in self._evidence.items()}
        verdicts = judge_all(self.state, evidence, self.state.step_age_s(now))
        while self.state.active:
            self.state, decision = apply_decision(self.state, decide(self.state, verdicts, evidence), now)
            self.decisions.append(decision)
            if decision.action != "drop":
                break

    def _paired(self, version: str, rows: int) -> PairedMoments:
        truth = self._chance.normal(-1.0, 1.0, rows)
        labels = (self._chance.random(rows) < 1.0 / (1.0 + np.exp(-truth))).astype(float)
        costs = [
            row_loss(BINARY, 1.0 / (1.0 + np.exp(-(truth + self._chance.normal(0.0, _NOISE + noise, rows)))), labels)
            for noise in (self._noise[CHAMPION], self._noise[version])
        ]
        return PairedMoments.from_losses(*costs)

    def _variant_stats(self, requests: int) -> VariantStats:
        failures = int(self._chance.binomial(requests, _ERROR_RATE))
        latency = LatencyHistogram.from_values(20.0 * self._chance.lognormal(0.0, 0.5, 10))
        return VariantStats(requests=requests, errors=failures, failures=failures, keys=requests, latency=latency)
