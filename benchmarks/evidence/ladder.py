"""Labeled rows until a challenger that equals its champion is promoted, by the default policy; and until harm is shown.

Simulated rollouts whose evidence goes through split, copies, log and verdict (logged_rollout.py). Both variants know a
row's true log-odds up to noise of their own. Every request is labeled and none fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from typing import NamedTuple

from benchmarks.evidence.logged_rollout import LoggedRollout, Traffic
from benchmarks.evidence.rows import HARMS, SHARE, Harm, noise_for
from benchmarks.evidence.rows import POLICY as HARM_POLICY
from benchmarks.results import Row, Target, row
from deployments.analysis.quality_test import compare_quality
from deployments.rollout_policy import RolloutPolicy

SEEDS, FEW_SEEDS = 20, 3
MOST_ROWS = 1_000
HORIZON = 40_000
WORK = "an equal challenger, default steps, to its promotion"
POLICY = RolloutPolicy()

_FEWEST_LOOK_ROWS, _LOOKS = 20, 80


class Copying(NamedTuple):
    """How much is copied: the fraction by the policy, and the fraction of these copies that is dropped."""

    copies: float
    dropped: float = 0.0


_CASES: dict[Copying, str] = {
    Copying(1.0): "every request of the champion is copied",
    Copying(1.0, 0.8): "four of five copies are dropped, as under load",
    Copying(0.1): "a tenth of the champion's keys is copied",
    Copying(0.0): "no copies: 224 requests without an error at a share of 5% take 4,480 rows",
}


def rows(small: bool, progress: Callable[[str], None]) -> Iterator[Row]:
    """Compare what copies of the champion's rows bring."""
    seeds = range(FEW_SEEDS if small else SEEDS)
    without = median(promotion_rows(POLICY, Copying(0.0), seed) for seed in seeds)
    for copying, about in _CASES.items():
        progress(f"{WORK}: {about}")
        ours = sorted(promotion_rows(POLICY, copying, seed) for seed in seeds)
        target = Target(of="value", sign="≤", limit=MOST_ROWS) if copying == Copying(1.0) else None
        note = f"{about}; {len(seeds)} rollouts, at most {ours[-1]:,}, {sum(x > HORIZON for x in ours)} not promoted"
        yield row(WORK, "labeled rows, median", median(ours), "without copies", without, target, note)
    for harm in HARMS:
        yield _harm(harm, seeds, progress)


def promotion_rows(policy: RolloutPolicy, copying: Copying, seed: int) -> int:
    """Labeled rows until the promotion; more than HORIZON if the rollout was aborted, or not promoted until then."""
    policy = policy.model_copy(update={"copies": copying.copies})
    rollout, step = LoggedRollout(policy, seed, Traffic(dropped=copying.dropped)), 0
    while rollout.rows <= HORIZON:
        rollout.serve(max(_FEWEST_LOOK_ROWS, rollout.rows // _LOOKS), policy.steps[step])
        kind = rollout.judge(policy.steps[step]).kind
        if kind == "abort":
            break
        step += kind == "advance"
        if step == len(policy.steps):
            return rollout.rows
    return HORIZON + 1


def harm_rows(harm: Harm, copies: float, seed: int) -> int:
    """Labeled rows, of all requests, until quality shows that the challenger is worse."""
    policy = HARM_POLICY.model_copy(update={"copies": copies})
    rollout = LoggedRollout(policy, seed, Traffic(noise_for(harm.size), shared=True))
    while not compare_quality(rollout.evidence(), policy).regression:
        rollout.serve(harm.look_rows, SHARE)
    return rollout.rows


def _harm(harm: Harm, seeds: range, progress: Callable[[str], None]) -> Row:
    work = f"a harm of {harm.size:.0%} shown, challenger's share {SHARE:.0%}, every request of the champion is copied"
    progress(work)
    ours = sorted(harm_rows(harm, 1.0, seed) for seed in seeds)
    note = f"{len(seeds)} rollouts, at most {ours[-1]:,}; section rows has the same without log and split"
    target = Target(of="value", sign="≤", limit=harm.most_rows)
    return row(work, "labeled rows, median", median(ours), target=target, note=note)
