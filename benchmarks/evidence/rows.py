"""Labeled rows until a harm is shown, at a share of 10%: rayloop's test of quality beside GrowthBook's sequential test.

A row has a true log-odds. The champion knows it up to noise; the challenger knows what the champion knows, up to noise
of its own that raises its log loss by 1, 5 or 20%. With copies, the challenger scores every row; without, only its
share. gbstats compares the rows of the two arms, by its own defaults: alone, with a covariate that is known before the
label (the loss that the champion's score leads to expect), and with the champion's loss on the same row as covariate,
which is to lend it rayloop's pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from benchmarks.monitoring.programs import ProgramFailed, run_peer
from benchmarks.results import Row, Target, row
from benchmarks.serving.environments import InstallFailed
from cluster.row_losses import row_loss
from cluster.values import Task
from deployments.analysis.clipped_differences import ClippedDifferences
from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence
from deployments.analysis.paired_moments import PairedMoments
from deployments.analysis.predicted_moments import PredictedMoments
from deployments.analysis.quality_test import compare_quality
from deployments.rollout_policy import RolloutPolicy

SHARE = 0.1
POLICY = RolloutPolicy(margin=0.0)
EQUAL_PARTS = POLICY.model_copy(update={"alpha_parts": "equal"})
SEEDS, FEW_SEEDS, PEER_SEEDS = 40, 3, 20
PEERS = Path(__file__).parent / "peers"
PEER = "gbstats 0.8.0, sequential"
TASK = Task(kind="binary", label="y")

_NOISE = 0.3
_CALIBRATION_ROWS, _MOST_NOISE = 400_000, 2.0
_LOOK_GROWTH = 1.03
_FEWEST_RATIO = 100.0


class Harm(NamedTuple):
    """A harm, the target, and how its rollouts are looked at."""

    size: float
    most_rows: int
    look_rows: int
    peer_horizon: int


HARMS = (Harm(0.01, 5_000, 100, 2_500_000), Harm(0.05, 1_000, 20, 150_000), Harm(0.2, 350, 5, 20_000))


class Scores(NamedTuple):
    """Scores of both variants for the same rows, and the labels."""

    champion: np.ndarray
    challenger: np.ndarray
    labels: np.ndarray

    @property
    def losses(self) -> tuple[np.ndarray, np.ndarray]:
        return row_loss(TASK, self.champion, self.labels), row_loss(TASK, self.challenger, self.labels)

    @property
    def evidence(self) -> ComparisonEvidence:
        champion, challenger = self.losses
        return ComparisonEvidence(
            paired=PairedMoments.from_losses(champion, challenger),
            predicted=PredictedMoments.from_scores(TASK, self.champion, self.challenger, "loss"),
            early=ClippedDifferences.from_losses(TASK, champion, challenger, "loss"),
        )


def draw(chance: np.random.Generator, rows: int, noise: float, shared: bool = True) -> Scores:
    """Draw rows.

    Args:
        chance: Source of randomness.
        rows: Number of rows.
        noise: Spread of the noise that the challenger's log-odds have in addition.
        shared: Whether the challenger has the champion's noise, or as much of its own.
    """
    truth = chance.normal(-1.0, 1.0, rows)
    labels = (chance.random(rows) < _sigmoid(truth)).astype(float)
    champion, own = (truth + chance.normal(0.0, _NOISE, rows) for _ in range(2))
    challenger = (champion if shared else own) + noise * chance.normal(0.0, 1.0, rows)
    return Scores(_sigmoid(champion), _sigmoid(challenger), labels)


@cache
def noise_for(harm: float) -> float:
    """Noise that raises the log loss by this fraction."""
    low, high = 0.0, _MOST_NOISE
    for _ in range(14):
        middle = (low + high) / 2.0
        champion, challenger = (
            loss.mean() for loss in draw(np.random.default_rng(0), _CALIBRATION_ROWS, middle).losses
        )
        low, high = (middle, high) if challenger / champion - 1.0 < harm else (low, middle)
    return low


def rows(small: bool, progress: Callable[[str], None]) -> Iterator[Row]:
    """Compare the rows that each needs."""
    for harm in HARMS:
        progress(f"rows to show a harm of {harm.size:.0%}")
        yield from _rows_of(harm, FEW_SEEDS if small else SEEDS, FEW_SEEDS if small else PEER_SEEDS, progress)


def rows_to_harm(harm: Harm, policy: RolloutPolicy, seed: int, shared: bool = True) -> int:
    """Rows that both variants scored until quality shows that the challenger is worse, at looks of every few rows."""
    chance, noise, total = np.random.default_rng(seed), noise_for(harm.size), ComparisonEvidence()
    while True:
        total += draw(chance, harm.look_rows, noise, shared).evidence
        if compare_quality(RolloutEvidence(by_share={SHARE: total}), policy).regression:
            return total.paired.n


def _rows_of(harm: Harm, seeds: int, peer_seeds: int, progress: Callable[[str], None]) -> Iterator[Row]:
    work = f"rows to show a harm of {harm.size:.0%}, challenger's share {SHARE:.0%}"
    paired = sorted(rows_to_harm(harm, POLICY, seed) for seed in range(seeds))
    equal = median(rows_to_harm(harm, EQUAL_PARTS, seed) for seed in range(seeds))
    own = median(rows_to_harm(harm, POLICY, seed, shared=False) for seed in range(seeds))
    ours, unit = median(paired), "labeled rows, median, every row scored by both"
    note = f"{seeds} rollouts; 80% need at most {paired[math.ceil(0.8 * seeds) - 1]:,}; {_bound_note(harm)}"
    peer, failure = _peer_rows(harm, peer_seeds, progress)
    target = Target(of="value", sign="≤", limit=harm.most_rows)
    yield row(work, unit, ours, "alpha in equal parts, as in 0.2", equal, target, note)
    many = Target(of="ratio", sign="≤", limit=1.0 / _FEWEST_RATIO) if harm.size == HARMS[0].size else None
    peer_note = (
        failure or f"{peer_seeds} rollouts of the peer, alpha 0.05 on two sides, looks {_LOOK_GROWTH - 1.0:.0%} apart"
    )
    yield row(work, unit, ours, PEER, peer.get("plain"), many, peer_note)
    yield row(work, unit, ours, f"{PEER}, covariate: expected loss", peer.get("expected"), note=failure)
    yield row(work, unit, ours, f"{PEER}, covariate: champion's loss", peer.get("pairs"), note=failure)
    unpaired = "labeled rows, median, only the challenger's share scored by both"
    yield row(work, unpaired, ours / SHARE, PEER, peer.get("plain"), note=f"the rows above / {SHARE:g}")
    apart = "the same; the champion's noise and the challenger's are independent"
    yield row(work, apart, own, note="pairs cancel less: the champion's noise is in every difference")


def _bound_note(harm: Harm) -> str:
    """The least mean number of rows of a test of power one that knows the harm (Wald, 1947)."""
    champion, challenger = draw(np.random.default_rng(1), _CALIBRATION_ROWS, noise_for(harm.size)).losses
    signal = float((challenger - champion).mean() / (challenger - champion).std())
    alpha = POLICY.test_alpha("quality")
    least = 2.0 * math.log(1.0 / alpha) / signal**2
    return f"a test that knows the harm needs {least:,.0f} on average, 2 log(1/{alpha:g}) / (mean / deviation)²"


def _peer_rows(harm: Harm, seeds: int, progress: Callable[[str], None]) -> tuple[dict[str, float | None], str]:
    """Median rows of the peer by its covariate, and why there are none. None: not within the horizon."""
    ends = np.unique(np.geomspace(100, harm.peer_horizon, _looks(harm)).astype(int))
    found: dict[str, float | None] = {}
    for covariate in ("expected", "pairs"):
        plan = {"rollouts": [looks_of(harm, ends, seed, covariate) for seed in range(seeds)]}
        try:
            result = run_peer("gbstats", "first_look", plan, progress, PEERS)
        except (InstallFailed, ProgramFailed) as error:
            return {}, f"gbstats could not run: {error}"
        found[covariate] = _median_rows(result["covariate"], ends)
        found["plain"] = _median_rows(result["plain"], ends)
    return found, ""


def _looks(harm: Harm) -> int:
    return math.ceil(math.log(harm.peer_horizon / 100) / math.log(_LOOK_GROWTH))


def looks_of(harm: Harm, ends: np.ndarray, seed: int, covariate: str) -> list[list[list[float]]]:
    """Sums of both arms at each look: rows, losses, their squares, covariates, their squares, products."""
    chance, sums, looks = np.random.default_rng(seed), np.zeros((2, 6)), []
    for rows in np.diff(ends, prepend=0).tolist():
        scores = draw(chance, rows, noise_for(harm.size))
        champion, challenger = scores.losses
        arm = chance.random(rows) < SHARE
        before = champion if covariate == "pairs" else _entropy(scores.champion)
        for i, (of_arm, loss) in enumerate(((~arm, champion), (arm, challenger))):
            y, x = loss[of_arm], before[of_arm]
            sums[i] += (y.size, y.sum(), y @ y, x.sum(), x @ x, x @ y)
        looks.append(sums.tolist())
    return looks


def _entropy(p: np.ndarray) -> np.ndarray:
    return np.asarray(-p * np.log(p) - (1.0 - p) * np.log1p(-p))


def _median_rows(looks: list[int | None], ends: np.ndarray) -> float | None:
    middle = median(math.inf if look is None else float(ends[look]) for look in looks)
    return middle if math.isfinite(middle) else None


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))
