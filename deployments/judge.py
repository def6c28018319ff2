"""Judge: evidence, policy and time to a verdict. Pure.

Two questions are asked of each look, both by tests that stay valid however often one looks:

loss    Is the challenger's mean loss above the champion's, on the same rows; is it below (1 + margin) times the
        champion's? By one-sided asymptotic confidence sequences for the mean of ``challenger - champion`` and of
        ``challenger - (1 + margin) * champion``.
errors  Does the challenger fail more than ``max_error_rate`` of the requests that the champion can answer? By
        e-processes on the counts.

*Worse* (the loss is above the champion's and not shown to be within the margin, or errors are above their limit):
abort. *Not worse* (loss within the margin and errors below their limit, and the step has its minimum counts): advance.
A challenger that is a little worse, within the margin, gets whichever is shown first. Otherwise *undecided*: hold,
until the step's deadline, then as the policy declares. Absence of evidence of harm never advances a rollout; evidence
of absence does.

Errors of the verdict, over all looks together: a challenger no worse than the champion, and within the limit of
errors, is aborted with probability <= alpha (each test spends alpha / 2); one beyond margin or limit is advanced with
probability <= alpha (to advance, both tests must reject at alpha). The bound on errors is exact, that on loss is
asymptotic in ``min_labelled``.
Loss evidence is summed over the steps; each step must add its own minimum.
"""

from __future__ import annotations

import math
from typing import Literal

from scipy import special

from cluster.contracts import Frozen
from deployments.evidence import Evidence, Moments, RolloutEvidence
from deployments.policy import RolloutPolicy

MINIMUM_PAIRS = 30
"""Below it a standard deviation is too poorly known for the asymptotic sequence, whatever the policy asks."""

_TUNED_ALPHA = 0.05


class Verdict(Frozen):
    """``reason`` is a sentence with the figures; ``figures`` the same, by name."""

    kind: Literal["advance", "hold", "abort"]
    reason: str
    figures: dict[str, float]


def judge(evidence: RolloutEvidence, share: float, step_age_s: float, policy: RolloutPolicy) -> Verdict:
    """The verdict on a challenger that has been at ``share`` for ``step_age_s`` seconds."""
    total, step = evidence.total, evidence.at(share)
    figures = _figures(total, step, policy)
    if harm := _harm(total, figures, policy):
        return Verdict(kind="abort", reason=harm, figures=figures)
    lacking = _lacking(step, figures, policy)
    if not lacking:
        return Verdict(kind="advance", reason=_sound(total, figures, policy), figures=figures)
    if step_age_s < policy.deadline_s:
        return Verdict(kind="hold", reason=f"undecided at {share:.0%}: {lacking}", figures=figures)
    return _overdue(step, share, lacking, figures, policy)


def lower_bound(excess: Moments, alpha: float, optimum: int) -> float:
    """Lower limit, for the mean of ``excess``, of a one-sided asymptotic confidence sequence.

    Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and asymptotic
    confidence sequences", Annals of Statistics 52(6), 2024: Robbins' normal mixture in its one-sided form
    (Proposition B.1), sharpest near ``optimum`` observations. -inf without observations.
    """
    return excess.mean - _width(excess, alpha, optimum)


def upper_bound(excess: Moments, alpha: float, optimum: int) -> float:
    """The mirror image of lower_bound."""
    return excess.mean + _width(excess, alpha, optimum)


def log_e_above(errors: int, requests: int, limit: float) -> float:
    """Log of an e-process against "each request fails with probability at most ``limit``".

    The likelihood ratio, averaged over rates uniform on (limit, 1]. Each factor's mean is at most 1 under the null
    whatever happened before, so by Ville's inequality it reaches 1/alpha with probability <= alpha.
    Ramdas, Grünwald, Vovk, Shafer, "Game-theoretic statistics and safe anytime-valid inference", 2023, section 3.
    """
    return _log_mixture(special.betaincc, errors, requests, limit) - math.log1p(-limit)


def log_e_below(errors: int, requests: int, limit: float) -> float:
    """Log of the e-process against "at least ``limit``", averaged over rates uniform on [0, limit)."""
    return _log_mixture(special.betainc, errors, requests, limit) - math.log(limit)


def _log_mixture(tail: special.betainc, errors: int, requests: int, limit: float) -> float:
    a, b = errors + 1.0, requests - errors + 1.0
    mass = float(tail(a, b, limit))
    if mass == 0.0:
        return -math.inf
    null = special.xlogy(errors, limit) + special.xlog1py(requests - errors, -limit)
    return float(special.betaln(a, b) + math.log(mass) - null)


def _width(excess: Moments, alpha: float, optimum: int) -> float:
    if not excess.n:
        return math.inf
    # Section 3.5 of the same paper: the mixture's precision that is sharpest at ``optimum`` observations. Any precision is
    # valid; one for every alpha makes a stricter bound the wider one at any count.
    rho2 = (-2.0 * math.log(_TUNED_ALPHA) + math.log(-2.0 * math.log(_TUNED_ALPHA)) + 1.0) / optimum
    t = excess.n * rho2 + 1.0
    log_term = math.log1p(math.sqrt(t) / (2.0 * alpha))
    return math.sqrt(excess.variance * 2.0 * t / (excess.n**2 * rho2) * log_term)


def _figures(total: Evidence, step: Evidence, policy: RolloutPolicy) -> dict[str, float]:
    excess, difference = total.paired.excess(policy.margin), total.paired.excess(0.0)
    half = policy.alpha / 2.0
    bounds = {}
    if excess.n >= MINIMUM_PAIRS:
        bounds = {
            "difference_lower": lower_bound(difference, half, policy.optimum),
            "excess_upper": upper_bound(excess, policy.alpha, policy.optimum),
        }
    errors, requests = total.challenger.errors, total.challenger.requests
    return bounds | {
        "labelled": float(total.paired.n),
        "step_labelled": float(step.paired.n),
        "step_requests": float(step.challenger.requests),
        "champion_loss": total.paired.champion,
        "challenger_loss": total.paired.challenger,
        "champion_requests": float(total.champion.requests),
        "challenger_requests": float(requests),
        "champion_errors": float(total.champion.errors),
        "challenger_errors": float(errors),
        "champion_latency_ms": total.champion.latency_ms.mean,
        "challenger_latency_ms": total.challenger.latency_ms.mean,
        "log_e_errors_above": log_e_above(errors, requests, policy.max_error_rate),
        "log_e_errors_below": log_e_below(errors, requests, policy.max_error_rate),
    }


def _harm(total: Evidence, figures: dict[str, float], policy: RolloutPolicy) -> str:
    """Why the challenger is worse; empty when that is not shown."""
    arm = total.challenger
    if figures["log_e_errors_above"] >= math.log(2.0 / policy.alpha):
        return (
            f"the challenger failed {arm.errors} of {arm.requests} requests that the champion answered, "
            f"more than {policy.max_error_rate:.1%} is allowed"
        )
    worse = total.paired.n >= policy.pairs_needed and figures.get("difference_lower", -math.inf) > 0.0
    if worse and figures["excess_upper"] > 0.0:
        return (
            f"the challenger is worse: {_losses(total)}, and not shown to be within the margin of {policy.margin:.1%}"
        )
    return ""


def _lacking(step: Evidence, figures: dict[str, float], policy: RolloutPolicy) -> str:
    """What is missing to advance; empty when nothing is."""
    if step.challenger.requests < policy.min_requests:
        return f"{step.challenger.requests} of {policy.min_requests} requests"
    if step.paired.n < policy.min_labelled:
        return f"{step.paired.n} of {policy.min_labelled} labelled rows"
    if figures["log_e_errors_below"] < math.log(1.0 / policy.alpha):
        return (
            f"{step_count(figures)} requests with {figures['challenger_errors']:.0f} errors do not yet show an error "
            f"rate below {policy.max_error_rate:.1%}"
        )
    upper = figures.get("excess_upper", math.inf)
    if upper > 0.0:
        return (
            f"after {figures['labelled']:.0f} labelled rows the challenger's loss could still be {upper:.4f} above "
            f"the margin of {policy.margin:.1%}"
        )
    return ""


def step_count(figures: dict[str, float]) -> str:
    """Requests of the challenger so far, for people."""
    return f"{figures['challenger_requests']:.0f}"


def _sound(total: Evidence, figures: dict[str, float], policy: RolloutPolicy) -> str:
    return (
        f"not worse: {_losses(total)}, within the margin of {policy.margin:.1%}; "
        f"{total.challenger.errors} errors in {step_count(figures)} requests"
    )


def _losses(total: Evidence) -> str:
    paired = total.paired
    return f"loss {paired.challenger:.4f} against {paired.champion:.4f} on {paired.n} labelled rows"


def _overdue(step: Evidence, share: float, lacking: str, figures: dict[str, float], policy: RolloutPolicy) -> Verdict:
    reason = f"still undecided at {share:.0%} after {policy.deadline_s:.0f} s ({lacking})"
    counted = step.challenger.requests >= policy.min_requests and step.paired.n >= policy.min_labelled
    if policy.on_undecided == "advance" and not counted:
        return Verdict(kind="hold", reason=f"{reason}: too little was seen to advance by default", figures=figures)
    return Verdict(kind=policy.on_undecided, reason=f"{reason}: {policy.on_undecided} by policy", figures=figures)
