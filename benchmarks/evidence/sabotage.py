"""Sabotaged evidence: rollouts whose rows or labels are wrong must end as invalid, and blame no version.

``sound`` plays the same rollouts with sound evidence: few of them may be called invalid. Everything is simulated and
seeded (simulated_log.py), so values do not depend on the machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from benchmarks.evidence.simulated_log import PASS_US, TASKS, Batch, Plan, play
from benchmarks.results import Row, Target, row

SHARES = (0.05, 0.1, 0.5)
SEEDS, FEW_SEEDS = 10, 1
SOUND, FEW_SOUND = 120, 12
SOUND_LOOKS = 20
Change = Callable[[Batch, np.random.Generator], None]


class Kind(NamedTuple):
    """A kind of sabotage."""

    checks: tuple[str, ...]
    """Checks that name it rightly."""
    change: Change
    tasks: tuple[str, ...] = tuple(TASKS)
    challenger: str = "worse"
    """Quality of the challenger; a better one is blamed most easily where labels are wrong."""


def _mean(batch: Batch) -> float:
    return float(np.nanmean(batch.labels))


def _invert(batch: Batch, rows: np.ndarray) -> None:
    center = 1.0 if set(np.unique(batch.labels[np.isfinite(batch.labels)])) <= {0.0, 1.0} else 2.0 * _mean(batch)
    batch.labels[rows] = center - batch.labels[rows]


def _shuffle(batch: Batch, rows: np.ndarray, chance: np.random.Generator) -> None:
    batch.labels[rows] = chance.permutation(batch.labels[rows])


def _everything(batch: Batch) -> np.ndarray:
    return np.ones(len(batch.ids), bool)


def _invert_all(batch: Batch, chance: np.random.Generator) -> None:
    _invert(batch, _everything(batch))


def _shuffle_all(batch: Batch, chance: np.random.Generator) -> None:
    _shuffle(batch, _everything(batch), chance)


def _next_label(batch: Batch, chance: np.random.Generator) -> None:
    batch.labels[:] = np.roll(batch.labels, 1)


def _zero_all(batch: Batch, chance: np.random.Generator) -> None:
    batch.labels[np.isfinite(batch.labels)] = 0.0


def _other_units(factor: float) -> Change:
    def change(batch: Batch, chance: np.random.Generator) -> None:
        batch.labels *= factor

    return change


def _invert_arm(batch: Batch, chance: np.random.Generator) -> None:
    _invert(batch, batch.challenger)


def _shuffle_arm(batch: Batch, chance: np.random.Generator) -> None:
    _shuffle(batch, batch.challenger, chance)


def _zero_arm(batch: Batch, chance: np.random.Generator) -> None:
    batch.labels[batch.challenger & np.isfinite(batch.labels)] = 0.0


def _units_of_arm(batch: Batch, chance: np.random.Generator) -> None:
    batch.labels[batch.challenger] *= 60.0


def _missing(of_challenger: bool) -> Change:
    def change(batch: Batch, chance: np.random.Generator) -> None:
        arm = batch.challenger if of_challenger else ~batch.challenger
        batch.labels[arm & (chance.random(len(arm)) < 0.2)] = np.nan

    return change


def _missing_where_it_erred(batch: Batch, chance: np.random.Generator) -> None:
    batch.labels[batch.challenger & batch.erred] = np.nan


def _late_arm(batch: Batch, chance: np.random.Generator) -> None:
    batch.delays_us[batch.challenger] += 2.0 * PASS_US


def _swap_columns(batch: Batch, chance: np.random.Generator) -> None:
    scored = np.isfinite(batch.challenger_score)
    ours, theirs = batch.champion_score[scored].copy(), batch.challenger_score[scored].copy()
    batch.champion_score[scored], batch.challenger_score[scored] = theirs, ours


def _swap_columns_and_answer(batch: Batch, chance: np.random.Generator) -> None:
    _swap_columns(batch, chance)
    scored = np.isfinite(batch.challenger_score)
    batch.answer[scored] = batch.challenger_score[scored]


def _swap_arms(batch: Batch, chance: np.random.Generator) -> None:
    batch.challenger[:] = ~batch.challenger


def _pin(batch: Batch, chance: np.random.Generator) -> None:
    """A cache answers a tenth of the challenger's requests with the champion."""
    pinned = batch.challenger & (chance.random(len(batch.ids)) < 0.1)
    batch.challenger[pinned], batch.challenger_score[pinned] = False, np.nan
    batch.answer[pinned] = batch.champion_score[pinned]


def _lose_rows(batch: Batch, chance: np.random.Generator) -> None:
    batch.logged[batch.challenger & (chance.random(len(batch.ids)) < 0.4)] = False


def _lose_rows_where_it_erred(batch: Batch, chance: np.random.Generator) -> None:
    batch.logged[batch.challenger & batch.erred] = False


def _repeat_rows(batch: Batch, chance: np.random.Generator) -> None:
    batch.repeated[chance.random(len(batch.ids)) < 0.2] = True


def _contradict(batch: Batch, chance: np.random.Generator) -> None:
    """A second, other label for a fifth of the rows, at the end of the batch's time."""
    chosen = np.isfinite(batch.labels) & (chance.random(len(batch.ids)) < 0.3)
    batch.extra = batch.ids[chosen], batch.labels[chosen] + 1.0 - 2.0 * (batch.labels[chosen] == 1.0)


KINDS: dict[str, Kind] = {
    "labels inverted": Kind(("loss", "labels"), _invert_all, challenger="better"),
    "labels shuffled": Kind(("loss",), _shuffle_all, challenger="better"),
    "labels of the row before": Kind(("loss",), _next_label, challenger="equal"),
    "labels all 0": Kind(("labels", "loss"), _zero_all),
    "labels times 60": Kind(("loss",), _other_units(60.0), ("regression",)),
    "labels times 2": Kind(("loss",), _other_units(2.0), ("regression",), "equal"),
    "labels inverted in one variant": Kind(("loss", "labels"), _invert_arm, challenger="better"),
    "labels shuffled in one variant": Kind(("loss",), _shuffle_arm, challenger="better"),
    "labels all 0 in one variant": Kind(("labels", "loss"), _zero_arm),
    "labels times 60 in one variant": Kind(("labels", "loss"), _units_of_arm, ("regression",)),
    "a fifth of the challenger's labels missing": Kind(("coverage",), _missing(True), challenger="equal"),
    "a fifth of the champion's labels missing": Kind(("coverage",), _missing(False), challenger="equal"),
    "labels missing where the challenger erred": Kind(("coverage", "loss", "labels"), _missing_where_it_erred),
    "labels of one variant late": Kind(("delay", "coverage"), _late_arm, challenger="equal"),
    "score columns swapped": Kind(("scores",), _swap_columns),
    "variants swapped": Kind(("variant",), _swap_arms),
    "a cache pins keys to the champion": Kind(("variant", "split"), _pin, challenger="equal"),
    "rows of one variant lost": Kind(("split", "requests"), _lose_rows, challenger="equal"),
    "rows lost where the challenger erred": Kind(("split", "requests", "loss", "labels", "scores"),
                                                 _lose_rows_where_it_erred),
    "rows logged twice": Kind(("duplicates",), _repeat_rows, challenger="equal"),
    "labels contradicted": Kind(("duplicates", "labels", "loss"), _contradict, challenger="equal"),
}  # fmt: skip


def rows(small: bool, progress: Callable[[str], None]) -> Iterator[Row]:
    """Play each kind of sabotage with each share, task and seed."""
    seeds = FEW_SEEDS if small else SEEDS
    total: Counter[str] = Counter()
    for name, kind in KINDS.items():
        counts: Counter[str] = Counter()
        for task in kind.tasks:
            counts.update(outcome(kind, task, share, seed) for share in SHARES for seed in range(seeds))
        progress(f"{name}: {dict(counts)}")
        total += counts
    yield from _rows(total)


def _rows(counts: Counter[str]) -> Iterator[Row]:
    played = counts.total()
    note = f"{played} rollouts: {len(KINDS)} kinds, shares of {', '.join(f'{share:.0%}' for share in SHARES)}"
    yield row(
        "sabotage: ends as invalid, the right check named", "share of rollouts", counts["right check"] / played,
        target=Target(of="value", sign="≥", limit=0.95), note=f"{note}; {dict(counts)}",
    )  # fmt: skip
    for what, name in (("advance", "a challenger advances"), ("abort", "a challenger is blamed")):
        yield row(f"sabotage: {name}", "rollouts", counts[what], target=Target(of="value", sign="=", limit=0.0))


def outcome(kind: Kind, task: str, share: float, seed: int) -> str:
    """How a sabotaged rollout ends: "right check", "other check", "advance", "abort", or "hold" after the last row."""
    verdict = play(Plan(TASKS[task], kind.challenger, share, sabotage=kind.change), seed)
    if verdict.kind != "invalid":
        return verdict.kind
    return "right check" if verdict.check in kind.checks else "other check"


def sound_rows(small: bool, progress: Callable[[str], None]) -> Iterator[Row]:
    """Play sound rollouts: equal, better and worse challengers, a tenth of the labels missing, with and without drift.

    No rollout has a margin within which a worse challenger may advance: a worse one is worse by more.
    """
    count = FEW_SOUND if small else SOUND
    plans = [
        Plan(TASKS[task], challenger, share, looks=SOUND_LOOKS, drift=drift)
        for challenger in ("equal", "better", "worse")
        for drift in (False, True)
        for task in TASKS
        for share in SHARES
    ]
    invalid, aborts, advances = Counter[str](), 0, 0
    for seed in range(count):
        plan = plans[seed % len(plans)]
        # After an advance nothing more is judged here: a rollout that may go on looks on until its last row.
        verdict = play(replace(plan, until_invalid=True), seed)
        invalid[verdict.check or ""] += 1
        aborts += verdict.kind == "abort" and plan.challenger != "worse"
        advances += verdict.kind == "advance" and plan.challenger == "worse"
        if verdict.kind == "invalid":
            progress(f"seed {seed}: {verdict.reason}")
    found = count - invalid[""]
    note = f"{count} rollouts of {SOUND_LOOKS} looks at 400 requests; invalid by check: {dict(invalid)}"
    yield row("sound evidence: called invalid", "share of rollouts", found / count,
              target=Target(of="value", sign="≤", limit=0.01), note=note)  # fmt: skip
    for name, value in (("an equal or better challenger aborts", aborts), ("a worse challenger advances", advances)):
        yield row(f"sound evidence: {name}", "share of rollouts", value / count,
                  target=Target(of="value", sign="≤", limit=0.05))  # fmt: skip
