"""Sample ratio check: is the challenger's real share of traffic the configured one? Pure.

It counts routing keys, which the split assigns independently; all requests of one key go to the same variant. A split
that is not as configured (a cache in front, lost log rows, a replica with an old configuration) makes the two variants
samples of different traffic, and any comparison of them void.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy import special

from deployments.analysis.evidence import RolloutEvidence, pairwise_share
from deployments.analysis.sequential_tests import log_e_multinomial

CONCENTRATION = 100.0
"""Of the Dirichlet prior on the real share: within about 2 points of a configured 5%, 5 points of 50%."""
POOLED = 0.75
"""Weight of the test that one fault has been there all along; the rest is shared by the steps."""
_Z = np.linspace(-3.0, 3.0, 31)
_LOG_RATIOS = np.concatenate([0.2 * _Z, 0.8 * _Z])
_WEIGHTS = np.tile(np.exp(-(_Z**2) / 2.0), 2) / np.exp(-(_Z**2) / 2.0).sum() / 2.0
"""Normal mixture on the log of the factor by which the odds of a key being the challenger's differ."""


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


def log_e_first_keys(keys: Mapping[float, tuple[int, int]], steps: int) -> float:
    """Log of an e-value against "each key that appears for the first time was assigned with the share in force".

    A key's position is independent of when it comes, so keys that have not appeared before are independent of all
    earlier ones, and the steps need no union bound. It is the average of an e-process over all steps together and of
    those of the steps alone, each a mixture over factors of the odds (Lindon, Malek, "Anytime-valid inference for
    multinomial count data", NeurIPS 2022, section 4).

    Args:
        keys: The champion's and the challenger's first-time keys, by configured share.
        steps: Shares that the rollout may have.
    """
    if any(champion for share, (champion, _) in keys.items() if share == 1.0):
        # A single key that was assigned to the champion shows that the split is broken.
        return math.inf
    below = {share: counts for share, counts in keys.items() if 0.0 < share < 1.0}
    alone = [_log_e_factor({share: counts}) for share, counts in below.items()]
    # Steps that have not begun have an e-value of 1.
    logs = [_log_e_factor(below), *alone, *[0.0] * (max(steps, len(alone)) - len(alone))]
    weights = [POOLED, *[(1.0 - POOLED) / (len(logs) - 1)] * (len(logs) - 1)]
    return float(special.logsumexp(logs, b=weights))


def _log_e_factor(keys: Mapping[float, tuple[int, int]]) -> float:
    growth = np.zeros_like(_LOG_RATIOS)
    for share, (champion, challenger) in keys.items():
        odds = share / (1.0 - share)
        total = champion + challenger
        growth += challenger * _LOG_RATIOS - total * np.log((1.0 + odds * np.exp(_LOG_RATIOS)) / (1.0 + odds))
    return float(special.logsumexp(growth, b=_WEIGHTS))


def keys_by_share(evidence: RolloutEvidence) -> dict[float, tuple[int, int]]:
    """Keys assigned to the champion and to the challenger, by configured share."""
    return {share: (counts.champion.keys, counts.challenger.keys) for share, counts in evidence.by_share.items()}


def format_keys(evidence: RolloutEvidence) -> str:
    """Keys of the challenger, of both variants' keys, by configured share, for people."""
    keys = keys_by_share(evidence).items()
    return ", ".join(f"{b} of {a + b} keys at {share:.0%}" for share, (a, b) in keys) or "no keys"


def _log_e(evidence: RolloutEvidence, share: float) -> float:
    step = evidence.at_share(share)
    champion, challenger = step.champion.keys, step.challenger.keys
    if share == 1.0:
        # A single key that was assigned to the champion shows that the split is broken.
        return math.inf if champion else 0.0
    return log_e_multinomial(np.array([champion, challenger]), np.array([1.0 - share, share]), CONCENTRATION)
