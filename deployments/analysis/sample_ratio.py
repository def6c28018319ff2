"""Sample ratio check: is the challenger's real share of traffic the configured one? Pure.

It counts routing keys, which the split assigns independently; all requests of one key go to the same variant. A split
that is not as configured (a cache in front, lost log rows, a replica with an old configuration) makes the two variants
samples of different traffic, and any comparison of them void.
"""

from __future__ import annotations

import math

import numpy as np

from deployments.analysis.evidence import RolloutEvidence, pairwise_share
from deployments.analysis.sequential_tests import log_e_multinomial

CONCENTRATION = 100.0
"""Of the Dirichlet prior on the real share: within about 2 points of a configured 5%, 5 points of 50%."""


def possible_shares(steps: tuple[float, ...], n_initial: int) -> tuple[float, ...]:
    """Every pairwise share at which a rollout that began with ``n_initial`` challengers can assign keys.

    Until one challenger continues alone, each has its part of a step, and the champion has what the active ones leave.
    """
    if n_initial == 1:
        return steps
    parts = [step / n_initial for step in steps if step < 1.0]
    return *(pairwise_share(part, 1.0 - left * part) for part in parts for left in range(1, n_initial + 1)), *steps


def log_e_split(evidence: RolloutEvidence, steps: tuple[float, ...]) -> float:
    """Log of an e-value against "at each step, each key was assigned with that step's share".

    It is the e-value of the most suspicious step, divided by the number of ``steps``: a key that returns at the next
    step is assigned by the same hash, so steps depend on one another, and the union bound still holds. By Ville's
    inequality it ever reaches log(1/alpha) with probability <= alpha.
    """
    return max(_log_e(evidence, share) for share in steps) - math.log(len(steps))


def keys_by_share(evidence: RolloutEvidence) -> dict[float, tuple[int, int]]:
    """Keys assigned to the champion and to the challenger, by configured share."""
    return {share: (counts.champion.keys, counts.challenger.keys) for share, counts in evidence.by_share.items()}


def _log_e(evidence: RolloutEvidence, share: float) -> float:
    step = evidence.at_share(share)
    champion, challenger = step.champion.keys, step.challenger.keys
    if share == 1.0:
        # A single key that was assigned to the champion shows that the split is broken.
        return math.inf if champion else 0.0
    return log_e_multinomial(np.array([champion, challenger]), np.array([1.0 - share, share]), CONCENTRATION)
