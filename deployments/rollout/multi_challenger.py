"""Of several challengers: a verdict on each, and one ruling on the rollout. Pure.

Each is judged by itself, on its own requests and the champion's. Harm drops it alone. The others advance together, once
all of them may. At the last step before 100 % one of those that may advance goes on: the one whose mean cost lies
lowest against the champion's, on the rows that both scored. All of them have been shown to be within the margin by then,
so the choice needs no test; the ruling states the difference to the next best with its confidence limits, and says
whether it is more than chance. See docs/decisions/0019.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from deployments.analysis.evidence import RolloutEvidence
from deployments.analysis.quality_test import difference_bounds
from deployments.analysis.verdict import RolloutDecision, Verdict, judge
from deployments.rollout.state_machine import RolloutState

Verdicts = Mapping[str, Verdict]
Evidences = Mapping[str, RolloutEvidence]
"""By version."""


def judge_all(state: RolloutState, evidence: Evidences, step_age_s: float) -> dict[str, Verdict]:
    """The verdict on each challenger that is on trial."""
    counts = len(state.initial_challengers), len(state.challengers)
    return {
        version: judge(evidence.get(version, RolloutEvidence()), state.share, step_age_s, state.policy, *counts)
        for version in state.challengers
    }


def decide(state: RolloutState, verdicts: Verdicts, evidence: Evidences) -> RolloutDecision:
    """What becomes of the rollout. Where several challengers are to be dropped, it is the first."""
    on_trial = {version: verdicts[version] for version in state.challengers}
    kinds = {verdict.kind for verdict in on_trial.values()}
    if len(state.initial_challengers) == 1:
        (verdict,) = on_trial.values()
        return RolloutDecision(versions=state.challengers, **verdict.model_dump())
    if kinds == {"abort"}:
        return _combine("abort", on_trial)
    if "abort" in kinds:
        worst = next(version for version, verdict in on_trial.items() if verdict.kind == "abort")
        return _combine("drop", {worst: on_trial[worst]})
    if "hold" in kinds:
        return _combine("hold", on_trial)
    return _choose_best(state, on_trial, evidence) if state.chooses_next else _combine("advance", on_trial)


def _combine(kind: Literal["advance", "hold", "drop", "abort"], verdicts: Verdicts) -> RolloutDecision:
    """Sentences of several verdicts one after another; figures with the version before their names."""
    return RolloutDecision(
        kind=kind,
        versions=tuple(verdicts),
        reason="; ".join(f"v{version}: {verdict.reason}" for version, verdict in verdicts.items()),
        figures={f"v{version}_{name}": x for version, one in verdicts.items() for name, x in one.figures.items()},
        remark="; ".join(f"v{version}: {verdict.remark}" for version, verdict in verdicts.items() if verdict.remark),
    )


def _choose_best(state: RolloutState, verdicts: Verdicts, evidence: Evidences) -> RolloutDecision:
    """Advance the best by estimate. Limits hold for all challengers at once, so for any two, whoever is best."""
    policy = state.policy.divide_alpha(len(state.initial_challengers))
    paired = {version: evidence[version].total.paired for version in verdicts}
    mean = {version: one.challenger - one.champion for version, one in paired.items()}
    best, next_best = sorted(mean, key=lambda version: mean[version])[:2]
    (low, high), (next_low, next_high) = (difference_bounds(paired[version], policy) for version in (best, next_best))
    limits = {"lower": low - next_high, "upper": high - next_low}
    all_passed = _combine("advance", verdicts)
    shown = "shown to be less" if limits["upper"] < 0.0 else "not shown to be less: by estimate alone"
    reason = (
        f"v{best} goes on, its mean {policy.metric} cost being least: {mean[best]:+.4f} against the champion's, "
        f"v{next_best} {mean[next_best]:+.4f}; the difference lies between {limits['lower']:+.4f} and "
        f"{limits['upper']:+.4f}, {shown}; {all_passed.reason}"
    )
    figures = {f"best_less_next_{name}": value for name, value in limits.items()}
    return all_passed.model_copy(
        update={"versions": (best,), "reason": reason, "figures": all_passed.figures | figures}
    )
