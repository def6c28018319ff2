"""Judge: evidence, policy and time to a verdict. Pure.

What is asked, and how:

errors   Does the challenger fail more than ``max_error_rate`` of the requests that the champion can answer? Does it
         fail more often than the champion, beyond ``error_margin``, and is not shown to be below the limit? (sequential_tests.py)
quality  Is its mean loss, or its share of mistakes, above the champion's on the same rows; is it below (1 + margin)
         times the champion's? (quality_test.py)
latency  Is a quantile of its time in the predictor beyond the champion's, with margin and floor? (latency_histogram.py)
split    Was the traffic dealt as configured? (sample_ratio.py)
memory   Did a replica of it grow further than it may?

*Worse* (harm in any answer): abort. *Not worse* (quality within the margin and errors below their limit, both shown;
the step has its minimum counts; the split is sound): advance. A challenger that is a little worse, within the margin,
gets whichever is shown first. Otherwise *undecided*: hold, until the step's deadline, then as the policy declares. Absence
of evidence of harm never advances a rollout; evidence of absence does. Latency advances nothing and, unless the policy
says so, need not be shown either: see docs/decisions/0013.

Errors of the verdict, over all looks together. A challenger no worse than the champion, and within the limits, is
aborted or held for a broken split with probability <= alpha: each of the (at most five) tests spends an equal part.
One beyond margin or limit is advanced with probability <= alpha: to advance, all tests must reject at alpha. The bounds
are exact for errors, accuracy, latency and the split where each key comes once; those on loss are asymptotic in
``min_labelled``, and all are in the number of keys where keys repeat. Of several challengers each is judged by itself,
by an equal part of alpha: the bounds hold for all of them together (multi_challenger.py).
Evidence is summed over the steps; each step must add its own minimum.
"""

from __future__ import annotations

from typing import Literal

from cluster.values import Frozen
from deployments.analysis.criteria import errors, errors_compared, latency, memory, split
from deployments.analysis.evidence import Evidence, RolloutEvidence, contested
from deployments.analysis.quality_test import quality, told_costs
from deployments.analysis.sample_ratio import shares_possible
from deployments.rollout_policy import RolloutPolicy

_QUESTIONS = (memory, errors, errors_compared, quality, latency)


class Verdict(Frozen):
    """``reason`` is a sentence with the figures; ``figures`` the same, by name.

    ``remark`` names why it holds, in few words and without figures, where a person should know; else it is empty.
    """

    kind: Literal["advance", "hold", "abort"]
    reason: str
    figures: dict[str, float]
    remark: str = ""


class Ruling(Frozen):
    """What becomes of a rollout by the verdicts on its challengers (multi_challenger.py).

    ``versions`` are those that advance, or the one that is dropped; the rest as in Verdict.
    """

    kind: Literal["advance", "hold", "drop", "abort"]
    versions: tuple[str, ...]
    reason: str
    figures: dict[str, float]
    remark: str = ""


def judge(
    evidence: RolloutEvidence,
    share: float,
    step_age_s: float,
    policy: RolloutPolicy,
    entrants: int = 1,
    on_trial: int = 1,
) -> Verdict:
    """The verdict on a challenger that has been at ``share`` for ``step_age_s`` seconds.

    It is one of so many that are ``on_trial`` at that share each, of ``entrants`` that began.
    """
    policy, dealt = policy.shared(entrants), contested(share, 1.0 - on_trial * share)
    total, step = evidence.total, evidence.at(dealt)
    evidence = evidence.model_copy(update={"whole": total})
    sound = split(evidence, policy, shares_possible(policy.steps, entrants))
    answers = [sound, *(ask(evidence, policy) for ask in _QUESTIONS)]
    figures = _counted(total, step) | {"given_up": float(evidence.given_up)}
    for answer in answers:
        figures |= answer.figures
    for answer in answers:
        if answer.harm:
            return Verdict(kind="abort", reason=answer.harm, figures=figures)
    few, broken = _few(step, dealt, policy), sound.lacking
    lacking = broken or few or next((answer.lacking for answer in answers if answer.lacking), "")
    if not lacking:
        return Verdict(kind="advance", reason=_sound(total, policy), figures=figures)
    remark = "broken split" if broken else ""
    if step_age_s < policy.deadline_s:
        return Verdict(kind="hold", reason=f"undecided at {share:.0%}: {lacking}", figures=figures, remark=remark)
    default = policy.no_data if few else policy.on_undecided
    if default == "advance" and broken:
        default = "hold"
    reason = f"still undecided at {share:.0%} after {policy.deadline_s:.0f} s ({lacking}): {default} by policy"
    return Verdict(kind=default, reason=reason, figures=figures, remark=remark)


def _few(step: Evidence, share: float, policy: RolloutPolicy) -> str:
    """Which minimum count this step lacks; empty when none. At the full share the champion gets no requests."""
    if step.challenger.requests < policy.min_requests:
        return f"{step.challenger.requests} of {policy.min_requests} requests"
    if share < 1.0 and step.champion.requests < policy.min_requests:
        return f"{step.champion.requests} of {policy.min_requests} requests to the champion"
    if step.paired.n < policy.min_labelled:
        return f"{step.paired.n} of {policy.min_labelled} labelled rows"
    return ""


def _sound(total: Evidence, policy: RolloutPolicy) -> str:
    return (
        f"not worse: {told_costs(total.paired, policy)}, within the margin of {policy.margin:.1%}; "
        f"{total.challenger.errors} errors in {total.challenger.requests} requests"
    )


def _counted(total: Evidence, step: Evidence) -> dict[str, float]:
    return {
        "labelled": float(total.paired.n),
        "step_labelled": float(step.paired.n),
        "step_requests": float(step.challenger.requests),
        "champion_loss": total.paired.champion,
        "challenger_loss": total.paired.challenger,
        "champion_requests": float(total.champion.requests),
        "challenger_requests": float(total.challenger.requests),
        "champion_errors": float(total.champion.errors),
        "challenger_errors": float(total.challenger.errors),
    }
