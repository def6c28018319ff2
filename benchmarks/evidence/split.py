"""Keys until a split that is not as configured is found, beside the chi-square test of A/B platforms. Simulated.

The peer is the test of gbstats' ``check_srm``: a chi-square test of the keys, with an alarm below p = .001. It is meant
for one look; here both look at the same moments, and the same number of sound splits says how often each is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import median

import numpy as np
from scipy import stats

from benchmarks.results import Row, Target, row
from deployments.analysis.sample_ratio import log_e_first_keys
from deployments.analysis.validity.validity_checks import HOLD_RATE, check_alpha
from deployments.rollout_policy import RolloutPolicy

POLICY = RolloutPolicy()
SHARES, FACTORS = (0.05, 0.1, 0.5), (1.1, 1.25, 1.67)
"""The challenger's configured share, and by how much the real odds of a key being the challenger's differ."""
SEEDS, FEW_SEEDS = 30, 3
LOOKS = 100
PEER, PEER_ALPHA = "chi-square, as gbstats check_srm, p < .001 at any look", 0.001
ALPHA = check_alpha("split", POLICY)


def rows(small: bool, progress: Callable[[str], None]) -> Iterator[Row]:
    """Compare the keys that both tests need, and how often they are wrong about sound splits."""
    seeds = FEW_SEEDS if small else SEEDS
    for share in SHARES:
        for factor in FACTORS:
            work = f"odds of the split {factor} times those configured, share {share:.0%}: keys until it is found"
            progress(work)
            found, waits, theirs = zip(*(first_alarms(share, factor, seed) for seed in range(seeds)), strict=True)
            target = Target(of="ratio", sign="≤", limit=1.0)
            yield row(work, "keys to invalid, median", median(found), PEER, median(theirs), target)
            yield row(work, "keys until quality waits, median", median(waits), PEER, median(theirs), target)
    counts = np.isfinite([first_alarms(share, 1.0, seed) for share in SHARES for seed in range(3 * seeds)]).sum(axis=0)
    played = 3 * seeds * len(SHARES)
    for unit, count, limit in (("invalid", counts[0], ALPHA), ("quality waits", counts[1], HOLD_RATE * ALPHA)):
        yield row("a sound split is found to be broken", f"share of rollouts, {unit}", count / played, PEER,
                  counts[2] / played, Target(of="value", sign="≤", limit=limit),
                  f"{played} rollouts of {LOOKS} looks each")  # fmt: skip


def first_alarms(share: float, factor: float, seed: int) -> tuple[float, float, float]:
    """Keys until the split is invalid, until quality waits for it, and until the peer's alarm; infinite without one.

    Args:
        share: The configured share.
        factor: Factor of the odds; for 1, a sound split, looks are those of 1.25.
        seed: Seed of the keys.
    """
    odds = share / (1.0 - share)
    real, broken = (scale * odds / (1.0 + scale * odds) for scale in (factor, factor if factor != 1.0 else 1.25))
    # Enough for ten times the evidence that the alarm needs on average.
    each = math.ceil(100.0 * share * (1.0 - share) / (broken - share) ** 2 / LOOKS)
    total = each * np.arange(1, LOOKS + 1)
    challenger = np.random.default_rng(seed).binomial(each, real, LOOKS).cumsum()
    chi_square = np.square(challenger - share * total) / (share * (1.0 - share) * total)
    log_e = [
        log_e_first_keys({share: (int(n - mine), int(mine))}, len(POLICY.steps))
        for n, mine in zip(total, challenger, strict=True)
    ]
    return (
        _first(total, np.array(log_e) >= math.log(1.0 / ALPHA)),
        _first(total, np.array(log_e) >= math.log(1.0 / (HOLD_RATE * ALPHA))),
        _first(total, stats.chi2.sf(chi_square, 1) < PEER_ALPHA),
    )


def _first(total: np.ndarray, alarms: np.ndarray) -> float:
    return float(total[alarms.argmax()]) if alarms.any() else math.inf
