"""Labeled rows until a challenger that equals its champion is promoted, by the default policy. Simulated evidence.

Both variants know a row's true log-odds up to noise of their own. Every request is labeled and none fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from typing import Literal

import numpy as np

from benchmarks.evidence.rows import Scores, draw
from benchmarks.results import Row, Target, row
from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence, VariantStats
from deployments.analysis.verdict import judge
from deployments.rollout_policy import RolloutPolicy

SEEDS, FEW_SEEDS = 20, 3
MOST_ROWS = 1_000
HORIZON = 40_000
WORK = "an equal challenger, default steps, to its promotion"
POLICY = RolloutPolicy()

Copies = Literal["none", "losses", "all"]
"""What the challenger's scores of the champion's rows count for: nothing, losses, or losses and errors."""

_LOOK_ROWS: dict[Copies, int] = {"none": 100, "losses": 100, "all": 20}


def rows(small: bool, progress: Callable[[str], None]) -> Iterator[Row]:
    """Compare what copies of the champion's rows bring."""
    seeds = range(FEW_SEEDS if small else SEEDS)
    before = POLICY.model_copy(update={"alpha_parts": "equal"})
    about: dict[Copies, str] = {
        "none": "without copies: 50 requests at a share of 5% take 1,000 rows, and 224 without an error, 4,480",
        "losses": "copies count for losses, not for errors: 224 requests of the challenger's own without an error",
        "all": "copies count for losses and for errors",
    }
    for copies, note in about.items():
        progress(f"{WORK}: {note}")
        ours, theirs = (sorted(promotion_rows(policy, copies, seed) for seed in seeds) for policy in (POLICY, before))
        target = Target(of="value", sign="≤", limit=MOST_ROWS) if copies == "all" else None
        full_note = f"{note}; {len(seeds)} rollouts, {sum(x > HORIZON for x in ours)} not promoted"
        yield row(
            WORK,
            "labeled rows, median",
            median(ours),
            "alpha in equal parts, as in 0.2",
            median(theirs),
            target,
            full_note,
        )


def promotion_rows(policy: RolloutPolicy, copies: Copies, seed: int) -> int:
    """Labeled rows until the promotion; more than HORIZON if the rollout was aborted, or not promoted until then."""
    chance, step, seen = np.random.default_rng(seed), 0, 0
    by_share: dict[float, ComparisonEvidence] = {}
    while seen <= HORIZON:
        share = policy.steps[step]
        by_share[share] = by_share.get(share, ComparisonEvidence()) + _look(chance, share, copies)
        seen += _LOOK_ROWS[copies]
        kind = judge(RolloutEvidence(by_share=by_share), share, 0.0, policy).kind
        if kind == "abort":
            break
        step += kind == "advance"
        if step == len(policy.steps):
            return seen
    return HORIZON + 1


def _look(chance: np.random.Generator, share: float, copies: Copies) -> ComparisonEvidence:
    """Evidence of the labeled rows between two looks."""
    rows = _LOOK_ROWS[copies]
    scores, to_challenger = draw(chance, rows, 0.0, shared=False), chance.random(rows) < share
    paired = scores if copies != "none" else Scores(*(of[to_challenger] for of in scores))
    keys = int(to_challenger.sum())
    return paired.evidence.model_copy(
        update={
            "champion": VariantStats(requests=rows - keys, keys=rows - keys),
            "challenger": VariantStats(requests=rows if copies == "all" else keys, keys=keys),
        }
    )
