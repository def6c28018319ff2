"""Check the split itself: is the real share of the challenger the configured one? Pure.

Counted are routing keys, which the split deals independently; requests of one key all go the same way. A split that is
not as configured (a cache in front, lost log rows, a replica with an old configuration) makes the two arms samples of
different traffic, and any comparison of them void.
"""

from __future__ import annotations

import math

import numpy as np

from deployments.analysis.evidence import RolloutEvidence, contested
from deployments.analysis.sequential_tests import log_e_dealt

CONCENTRATION = 100.0
"""Of the Dirichlet that is bet on: shares within some 2 points at 5 %, 5 points at 50 %, of the configured one."""


def shares_possible(steps: tuple[float, ...], entrants: int) -> tuple[float, ...]:
    """Every share at which a rollout of so many challengers can come to deal keys, as evidence tells shares.

    Until one goes on alone each has its part of a step, and the champion has what those still on trial leave.
    """
    if entrants == 1:
        return steps
    parts = [step / entrants for step in steps if step < 1.0]
    return *(contested(part, 1.0 - left * part) for part in parts for left in range(1, entrants + 1)), *steps


def log_e_split(evidence: RolloutEvidence, steps: tuple[float, ...]) -> float:
    """Log of an e-value against "at each step, each key was dealt by that step's share".

    That of the most suspicious step, divided by the number of ``steps``: a key that comes back at the next step is
    dealt by the same hash, so steps depend on one another, and the union bound holds all the same. By Ville's
    inequality it ever reaches log(1/alpha) with probability <= alpha.
    """
    by_step = [_log_e(evidence, share) for share in steps]
    return max(by_step) - math.log(len(steps))


def shares_dealt(evidence: RolloutEvidence) -> dict[float, tuple[int, int]]:
    """Keys dealt to the champion and to the challenger, by configured share."""
    return {share: (one.champion.keys, one.challenger.keys) for share, one in evidence.by_share.items()}


def _log_e(evidence: RolloutEvidence, share: float) -> float:
    step = evidence.at(share)
    champion, challenger = step.champion.keys, step.challenger.keys
    if share == 1.0:
        # Nothing is left to chance: a single key that the champion was dealt shows that the split is broken.
        return math.inf if champion else 0.0
    return log_e_dealt(np.array([champion, challenger]), np.array([1.0 - share, share]), CONCENTRATION)
