"""Sabotaged evidence: rollouts whose rows or labels are wrong must end as invalid, and blame no version.

``sound`` plays the same rollouts with sound evidence: few of them may be called invalid, or be held while a check is
not settled. Everything is simulated and seeded (simulated_log.py), so values do not depend on the machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, get_args

import numpy as np
from scipy import stats

from benchmarks.evidence.sabotage_kinds import KINDS, Kind
from benchmarks.evidence.simulated_log import TASKS, Plan, looks, play
from benchmarks.results import Row, Target, row
from deployments.analysis.validity.validity_checks import check_validity
from deployments.analysis.verdict import judge
from deployments.rollout_policy import EvidenceCheck

SHARES = (0.05, 0.1, 0.5)
SEEDS, FEW_SEEDS = 20, 1
SOUND, FEW_SOUND = 1_000, 12
SOUND_LOOKS = 20
_EVERY_CHECK = get_args(EvidenceCheck)


def rows(small: bool, progress: Callable[[str], None]) -> Iterator[Row]:
    """Play each kind of sabotage with each share, task and seed."""
    seeds = FEW_SEEDS if small else SEEDS
    total, missed = Counter[str](), []
    for name, kind in KINDS.items():
        counts = Counter[str]()
        for task in kind.tasks:
            counts.update(outcome(kind, task, share, seed) for share in SHARES for seed in range(seeds))
        progress(f"{name}: {dict(counts)}")
        total += counts
        others = {what: count for what, count in counts.items() if what != "right check"}
        missed += [f"{name}: {others} of {counts.total()}"] if others else []
    yield from _rows(total, missed)


def _rows(counts: Counter[str], missed: list[str]) -> Iterator[Row]:
    played = counts.total()
    note = f"{played} rollouts: {len(KINDS)} kinds, shares of {', '.join(f'{share:.0%}' for share in SHARES)}"
    yield row(
        "sabotage: ends as invalid, the right check named", "share of rollouts", counts["right check"] / played,
        target=Target(of="value", sign="≥", limit=0.95), note="; ".join([note, str(dict(counts)), *missed]),
    )  # fmt: skip
    for what, name, target in (
        ("advance: worse", "a worse challenger advances", Target(of="value", sign="=", limit=0.0)),
        ("advance", "any challenger advances", None),
        ("abort", "a challenger is blamed", Target(of="value", sign="=", limit=0.0)),
    ):
        found = sum(count for end, count in counts.items() if end.startswith(what))
        yield row(f"sabotage: {name}", "rollouts", found, target=target, note=_interval(found, played))


def outcome(kind: Kind, task: str, share: float, seed: int) -> str:
    """How a sabotaged rollout ends.

    Returns:
        "right check", "other check", "hold" after the last row; "advance" or "abort", with the challenger's quality.
    """
    verdict = play(Plan(TASKS[task], kind.challenger, share, sabotage=kind.change), seed)
    if verdict.kind in ("advance", "abort"):
        return f"{verdict.kind}: {kind.challenger}"
    if verdict.kind == "invalid":
        return "right check" if verdict.check in kind.checks else "other check"
    return verdict.kind


class SoundRollout(NamedTuple):
    """What the checks did to a sound rollout."""

    challenger: str
    kind: str
    """The first verdict that is not to hold, or "hold"; "invalid" wherever it came."""
    check: str
    """Which check failed; empty for none."""
    held: int
    """Looks at which an unsettled check alone kept quality from a decision."""
    unproven: int
    """Looks at which it waited only until labels were shown to follow the scores."""


def sound_plans() -> list[Plan]:
    """Equal, better and worse challengers, a tenth of the labels missing, with and without drift.

    No rollout has a margin within which a worse challenger may advance: a worse one is worse by more.
    """
    return [
        Plan(TASKS[task], challenger, share, looks=SOUND_LOOKS, drift=drift)
        for challenger in ("equal", "better", "worse")
        for drift in (False, True)
        for task in TASKS
        for share in SHARES
    ]


def sound_rollout(plan: Plan, seed: int) -> SoundRollout:
    """Play a sound rollout to its last row: the checks look on after quality has decided."""
    kind, check, held, unproven = "hold", "", 0, 0
    unchecked = plan.policy.model_copy(update={"unchecked": _EVERY_CHECK})
    for evidence, verdict in looks(plan, seed):
        if verdict.kind == "invalid":
            kind, check = "invalid", verdict.check or ""
            break
        if kind == "hold" and verdict.kind == "hold":
            waits = judge(evidence, plan.share, 0.0, unchecked).kind != "hold"
            assert evidence.validity is not None
            split, labeled = verdict.figures["log_e_split"], evidence.total.paired.n
            suspicious = check_validity(evidence.validity, plan.policy, split, "", labeled).suspicious
            held, unproven = held + (waits and bool(suspicious)), unproven + (waits and not suspicious)
        kind = verdict.kind if kind == "hold" else kind
    return SoundRollout(plan.challenger, kind, check, held, unproven)


def sound_rows(small: bool, progress: Callable[[str], None]) -> Iterator[Row]:
    """Play sound rollouts."""
    plans, count = sound_plans(), FEW_SOUND if small else SOUND
    results = []
    for seed in range(count):
        results.append(sound_rollout(plans[seed % len(plans)], seed))
        if results[-1].check or results[-1].held:
            progress(f"seed {seed}: {results[-1]}")
    yield from _sound_rows(results)


def _sound_rows(results: Sequence[SoundRollout]) -> Iterator[Row]:
    checks = Counter(each.check for each in results if each.check)
    held = [each.held for each in results if each.held]
    unproven = [each.unproven for each in results if each.unproven]
    waits = f"{{}} looks in the median, {max(held, default=0)} of {SOUND_LOOKS} at most"
    figures = [
        ("called invalid", checks.total(), 0.01, f"{SOUND_LOOKS} looks; by check: {dict(checks)}"),
        ("held by a check that is not settled", len(held), 0.05, waits.format(_median(held))),
        ("an equal or better challenger aborts",
         sum(each.kind == "abort" and each.challenger != "worse" for each in results), 0.05, ""),
        ("a worse challenger advances",
         sum(each.kind == "advance" and each.challenger == "worse" for each in results), 0.05, ""),
    ]  # fmt: skip
    for name, found, limit, note in figures:
        yield row(f"sound evidence: {name}", "share of rollouts", found / len(results),
                  target=Target(of="value", sign="≤", limit=limit),
                  note=f"{_interval(found, len(results))}; {note}".removesuffix("; "))  # fmt: skip
    yield row("sound evidence: quality waits until labels are shown to follow scores", "share of rollouts",
              len(unproven) / len(results),
              note=f"{_interval(len(unproven), len(results))}; {_median(unproven)} looks in the median")  # fmt: skip


def _median(counts: Sequence[int]) -> str:
    return f"{float(np.median(counts)):.0f}" if counts else "0"


def _interval(found: int, of: int) -> str:
    """Count and its exact 95% interval, as a share (Clopper and Pearson, 1934)."""
    interval = stats.binomtest(found, of).proportion_ci()
    return f"{found} of {of}, 95% interval {interval.low:.2%} to {interval.high:.2%}"
