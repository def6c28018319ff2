"""Guards that turn a decision into a hold: bake time, freeze windows, a dry run. Pure.

Only a dry run prevents an abort; nothing prevents the pause of an invalid rollout.
"""

from __future__ import annotations

from deployments.analysis.verdict import RolloutDecision
from deployments.rollout_policy import RolloutPolicy


def apply_guards(
    decision: RolloutDecision, policy: RolloutPolicy, share: float, bake_left_s: float, now: float
) -> RolloutDecision:
    """Apply the guards to a decision.

    Args:
        decision: What the verdicts ask for.
        policy: Policy of the rollout.
        share: Current share of requests of each challenger.
        bake_left_s: Seconds of bake time left at this step.
        now: Seconds since the epoch.

    Returns:
        The decision, or a hold whose reason names the guard and the decision.
    """
    if policy.dry_run and decision.kind not in ("hold", "invalid"):
        action = _intended_action(decision, policy, share)
        return hold_decision(decision, f"dry run, would {action}: {decision.reason}", f"dry run: {action}")
    if decision.kind != "advance":
        return decision
    if bake_left_s > 0.0:
        return hold_decision(
            decision, f"baking at {share:.0%}: {bake_left_s:.0f} s left; {decision.reason}", f"baking at {share:.0%}"
        )
    for window in policy.freezes:
        if window.contains(now):
            return hold_decision(decision, f"frozen from {window}; {decision.reason}", f"frozen from {window}")
    return decision


def _intended_action(decision: RolloutDecision, policy: RolloutPolicy, share: float) -> str:
    if decision.kind == "advance":
        return "promote" if share == policy.steps[-1] else "advance"
    return f"drop v{decision.versions[0]}" if decision.kind == "drop" else "abort"


def hold_decision(decision: RolloutDecision, reason: str, remark: str) -> RolloutDecision:
    """Turn a decision into a hold.

    Args:
        decision: The decision; its figures and versions stay.
        reason: Why the rollout holds, with the reason of the decision.
        remark: Why, in short.
    """
    return decision.model_copy(update={"kind": "hold", "reason": reason, "remark": remark})
