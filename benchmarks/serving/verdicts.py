"""Error rates and power of the sequential tests under repeated looks, compared with fixed-horizon tests.

``python -m benchmarks.serving.verdicts`` prints the table. Everything is simulated and seeded: values do not depend on
the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks.serving.simulated import SHARE, RolloutPlan, costs, rollouts
from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence, VariantStats
from deployments.analysis.paired_moments import PairedMoments
from deployments.analysis.quality_test import compare_quality
from deployments.analysis.sample_ratio import log_e_split
from deployments.rollout_policy import RolloutPolicy

ALPHA = 0.05
ROLLOUTS, POWER_ROLLOUTS, STICKY_ROLLOUTS = 2_000, 200, 300
POINTS = (1.0, 2.0, 5.0)
_AA = RolloutPlan(30, 100, RolloutPolicy(steps=(SHARE, 1.0), alpha=ALPHA, margin=0.0, error_margin=0.0))
_POWER = RolloutPlan(100, 100, _AA.policy)
_STEPS = (0.05, 0.25, 0.5, 1.0)
_LOOKED = "looked at after each batch"
_AA_NOTE = f"{ROLLOUTS:,} rollouts of {_AA.looks} looks, {_AA.rows} labeled rows each; alpha {ALPHA:g}"

Row = dict[str, Any]


def rows() -> list[Row]:
    """One comparison a row."""
    return [*rows_of_equal_variants(), _sticky(), *_worse(), *_split()]


def rows_of_equal_variants() -> list[Row]:
    """How many of ``ROLLOUTS`` are wrongly aborted."""
    return [*_equal_by_loss(), *_equal_by_accuracy()]


def _equal_by_loss() -> list[Row]:
    """Equal variants and a margin of zero: only a wrong verdict ends a rollout. Uses the whole verdict."""
    outcomes = list(rollouts(ROLLOUTS, 0.0, _AA))
    aborted = float(np.mean([one.kind == "abort" for one in outcomes]))
    peeked, once = _paired_t(np.array([one.costs for one in outcomes]), _AA)
    work = f"verdicts: equal variants, log loss, {_LOOKED}"
    rows = [
        _wrong(work, aborted, "paired t-test, peeking", peeked, _AA_NOTE),
        _wrong(work, aborted, "paired t-test, one look at the end", once, _AA_NOTE),
    ]
    return rows


def _equal_by_accuracy() -> list[Row]:
    """The same by a betting test on mistakes: the quality criterion alone."""
    policy = _AA.policy.model_copy(update={"metric": "accuracy"})
    losses = np.array([costs(np.random.default_rng(seed), _AA.horizon, 0.0, "accuracy") for seed in range(ROLLOUTS)])
    aborted = float(np.mean([any(_harmed(paired, policy) for paired in _looks(one)) for one in losses]))
    peeked, _ = _paired_t(losses, _AA)
    work = f"verdicts: equal variants, accuracy, {_LOOKED}"
    return [
        _wrong(work, aborted, "paired t-test, peeking", peeked, _AA_NOTE),
        _wrong(work, aborted, "two-proportion z-test between arms, peeking", _two_proportions(losses), _AA_NOTE),
    ]


def _looks(losses: np.ndarray) -> Iterator[PairedMoments]:
    """The paired moments after each batch of one rollout."""
    paired = PairedMoments()
    for end in range(_AA.rows, _AA.horizon + 1, _AA.rows):
        paired += PairedMoments.from_losses(*losses[:, end - _AA.rows : end])
        yield paired


def _worse() -> list[Row]:
    rows = []
    for points in POINTS:
        outcomes = list(rollouts(POWER_ROLLOUTS, points, _POWER))
        aborted = [one for one in outcomes if one.kind == "abort"]
        work = f"verdicts: a challenger {points:g} point{'s' if points > 1 else ''} worse, {_LOOKED}"
        _, once = _paired_t(np.array([one.costs for one in outcomes]), _POWER)
        power = len(aborted) / len(outcomes)
        note = f"{POWER_ROLLOUTS} rollouts of at most {_POWER.horizon:,} labeled rows, a look each {_POWER.rows}"
        delay = float(np.median([one.rows if one.kind == "abort" else np.inf for one in outcomes]))
        median_rows = delay if np.isfinite(delay) else None
        late = "" if median_rows is not None else "; less than half were aborted within the horizon"
        peer = "paired t-test, one look at the end"
        rows.append(_row(work, "aborted, share", power, peer, once, note=note))
        rows.append(
            _row(work, "labeled rows to abort, median", median_rows, peer, float(_POWER.horizon), note=note + late)
        )
    return rows


def _sticky() -> Row:
    """Equal variants, each better for some users; each user makes many requests."""
    policy = _AA.policy.model_copy(update={"margin": 0.05})
    by_key = by_row = 0
    for seed in range(STICKY_ROLLOUTS):
        chance = np.random.default_rng(seed)
        losses = costs(chance, 6_000, 0.0, "loss")
        key = chance.integers(0, 150, 6_000)
        losses[1] += chance.normal(0.0, 0.2, 150)[key]
        looks = range(300, 6_001, 300)
        by_key += any(_harmed(PairedMoments.from_losses(losses[0, :n], losses[1, :n], key[:n]), policy) for n in looks)
        by_row += any(_harmed(PairedMoments.from_losses(losses[0, :n], losses[1, :n]), policy) for n in looks)
    work = f"verdicts: equal variants, 150 users who return, {_LOOKED}"
    note = f"{STICKY_ROLLOUTS} rollouts of 6,000 labeled rows, a look each 300; quality alone"
    wrong = by_key / STICKY_ROLLOUTS, by_row / STICKY_ROLLOUTS
    return _wrong(work, wrong[0], "the same judge, requests taken for strangers", wrong[1], note)


def _split() -> list[Row]:
    """False alarms of a correct split, and keys until a split of 20 % instead of 25 % is detected."""
    chance, share = np.random.default_rng(0), 0.25
    sound, broken = ((chance.random((ROLLOUTS, 5_000)) < real).cumsum(axis=1) for real in (share, 0.2))
    looks = np.arange(200, 5_001, 200)
    alarm, detection = (_first_alarm(counts[:, looks - 1], looks, share) for counts in (sound, broken))
    square, _ = (_first_chi_square(counts[:, looks - 1], looks, share) for counts in (sound, broken))
    note = f"{ROLLOUTS:,} rollouts, a look each 200 keys, one of {len(_STEPS)} steps"
    rate, peer = float(np.isfinite(alarm).mean()), float(np.isfinite(square).mean())
    work = f"sample ratio: 25 % of keys to the challenger, {_LOOKED}"
    wrong = _row(
        work, "false alarms, share", rate, "chi-square test, peeking", peer, "value ≤ 0.05", rate <= ALPHA, note
    )
    delay = float(np.median(detection))
    return [wrong, _row(work.replace("25 %", "20 % instead of 25 %"), "keys to the alarm, median", delay, note=note)]


def _first_alarm(challenger: np.ndarray, looks: np.ndarray, share: float) -> np.ndarray:
    """Keys at the first alarm, infinite without one, [rollouts]. Looks stop at the first alarm."""
    first = np.full(len(challenger), np.inf)
    for i, counts in enumerate(challenger):
        for keys, to_challenger in zip(looks.tolist(), counts.tolist(), strict=True):
            arms = ComparisonEvidence(
                champion=VariantStats(keys=keys - to_challenger), challenger=VariantStats(keys=to_challenger)
            )
            if log_e_split(RolloutEvidence(by_share={share: arms}), _STEPS) >= -np.log(ALPHA):
                first[i] = keys
                break
    return first


def _first_chi_square(challenger: np.ndarray, looks: np.ndarray, share: float) -> np.ndarray:
    z = (challenger - looks * share) / np.sqrt(looks * share * (1.0 - share))
    return _first(np.abs(z) > stats.norm.ppf(1.0 - ALPHA / 2.0), looks)


def _paired_t(losses: np.ndarray, plan: RolloutPlan) -> tuple[float, float]:
    """Shares of rollouts that a one-sided paired t-test stops: at any look, and at the last look only."""
    difference = losses[:, 1] - losses[:, 0]
    looks = np.arange(1, plan.looks + 1) * plan.rows
    mean = difference.cumsum(axis=1)[:, looks - 1] / looks
    square = np.square(difference).cumsum(axis=1)[:, looks - 1] / looks
    t = mean / np.sqrt((square - mean**2) / (looks - 1))
    beyond = t > stats.t.ppf(1.0 - ALPHA, looks - 1)
    return float(beyond.any(axis=1).mean()), float(beyond[:, -1].mean())


def _two_proportions(losses: np.ndarray) -> float:
    """The same for a z-test of the arms' error rates, with separate requests for the champion."""
    looks = np.arange(1, _AA.looks + 1) * _AA.rows
    own = [costs(np.random.default_rng(10**6 + i), _AA.horizon, 0.0, "accuracy")[0] for i in range(len(losses))]
    champion, challenger = (arm.cumsum(axis=1)[:, looks - 1] / looks for arm in (np.array(own), losses[:, 1]))
    pooled = (champion + challenger) / 2.0
    z = (challenger - champion) / np.sqrt(2.0 * pooled * (1.0 - pooled) / looks)
    return float((z > stats.norm.ppf(1.0 - ALPHA)).any(axis=1).mean())


def _first(beyond: np.ndarray, looks: np.ndarray) -> np.ndarray:
    return np.where(beyond.any(axis=1), looks[beyond.argmax(axis=1)], np.inf)


def _harmed(paired: PairedMoments, policy: RolloutPolicy) -> bool:
    return bool(
        compare_quality(RolloutEvidence(by_share={SHARE: ComparisonEvidence(paired=paired)}), policy).regression
    )


def _wrong(
    work: str, value: float, peer: str, peer_value: float, note: str, unit: str = "wrongly aborted, share"
) -> Row:
    """How often a test is wrong, compared with alpha."""
    return _row(work, unit, value, peer, peer_value, f"value ≤ {ALPHA:g}", value <= ALPHA, note)


def _row(
    work: str,
    unit: str,
    value: float | None,
    peer: str = "",
    peer_value: float | None = None,
    target: str = "",
    met: bool | None = None,
    note: str = "",
) -> Row:
    ratio = float(value / peer_value) if value is not None and peer_value else None
    rayloop = None if value is None else float(value)
    return {
        "work": work,
        "unit": unit,
        "rayloop": rayloop,
        "peer": peer,
        "peer_value": peer_value,
        "ratio": ratio,
        "target": target,
        "met": None if met is None else bool(met),
        "note": note,
    }


def main() -> None:
    table = Table(*("work", "unit", "rayloop", "peer", "peer's value", "ratio", "target", "met"))
    for row in rows():
        cells = [row[name] for name in ("work", "unit", "rayloop", "peer", "peer_value", "ratio", "target", "met")]
        table.add_row(
            *("" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells)
        )
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
