"""Simulated rollouts of several challengers: the real traffic split, verdicts, rollout decision and state machine."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cluster.row_losses import row_loss
from cluster.values import Decision
from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence, VariantStats, pairwise_share
from deployments.analysis.latency_histogram import LatencyHistogram
from deployments.analysis.paired_moments import PairedMoments
from deployments.inference.traffic_split import find_slice
from deployments.rollout.multi_challenger import decide, judge_all
from deployments.rollout.state_machine import RolloutState, apply_decision, begin
from deployments.rollout_policy import RolloutPolicy
from tests.factories.deployments.bundles import BINARY

CHAMPION = "1"
_NOISE = 0.3
_ERROR_RATE = 0.005


class Simulation:
    """``noise`` is what each version, the champion's included, adds in logits to what can be known of a row."""

    def __init__(self, seed: int, noise: Mapping[str, float], policy: RolloutPolicy) -> None:
        self._chance, self._noise, self._seed = np.random.default_rng(seed), noise, seed
        challengers = [version for version in noise if version != CHAMPION]
        self.state = begin(f"r{seed}", "trips", CHAMPION, challengers, policy, 0.0)
        self.decisions: list[Decision] = []
        self._seen: dict[str, dict[float, ComparisonEvidence]] = {version: {} for version in challengers}
        self._sent = 0

    def run(self, looks: int, requests: int) -> RolloutState:
        """Look after so many requests each time, until the rollout has ended."""
        for now in range(1, looks + 1):
            if self.state.active:
                self._serve(requests)
                self._look(float(now))
        return self.state

    @property
    def dropped(self) -> list[str]:
        return [version for one in self.decisions if one.action in ("drop", "abort") for version in one.challengers]

    def _serve(self, requests: int) -> None:
        state = self.state
        keys = [f"user-{self._sent + i}" for i in range(requests)]
        self._sent += requests
        dealt = [find_slice(state.id, key, state.share, state.starts) for key in keys]
        champion = self._arm(dealt.count(None))
        share = pairwise_share(state.share, 1.0 - len(state.challengers) * state.share)
        for index, version in enumerate(state.challengers):
            rows = dealt.count(index)
            seen = ComparisonEvidence(champion=champion, challenger=self._arm(rows), paired=self._paired(version, rows))
            self._seen[version][share] = self._seen[version].get(share, ComparisonEvidence()) + seen

    def _look(self, now: float) -> None:
        evidence = {version: RolloutEvidence(by_share=seen) for version, seen in self._seen.items()}
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

    def _arm(self, requests: int) -> VariantStats:
        failures = int(self._chance.binomial(requests, _ERROR_RATE))
        latency = LatencyHistogram.from_values(20.0 * self._chance.lognormal(0.0, 0.5, 10))
        return VariantStats(requests=requests, errors=failures, failures=failures, keys=requests, latency=latency)
