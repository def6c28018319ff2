"""What keeps a ruling from being carried out: bake time, freeze windows, a dry run. Pure.

Only a dry run keeps harm from aborting.
"""

from __future__ import annotations

from deployments.analysis.verdict import RolloutDecision
from deployments.rollout_policy import RolloutPolicy


def apply_guards(
    ruling: RolloutDecision, policy: RolloutPolicy, share: float, bake_left_s: float, now: float
) -> RolloutDecision:
    """The ruling, or a hold that says what it would have been, and why it is not."""
    if policy.dry_run and ruling.kind != "hold":
        would = _intended_action(ruling, policy, share)
        return _hold(ruling, f"dry run, would {would}: {ruling.reason}", f"dry run: {would}")
    if ruling.kind != "advance":
        return ruling
    if bake_left_s > 0.0:
        return _hold(
            ruling, f"bakes at {share:.0%}, {bake_left_s:.0f} s more; {ruling.reason}", f"bakes at {share:.0%}"
        )
    for window in policy.freezes:
        if window.contains(now):
            return _hold(ruling, f"frozen from {window}; {ruling.reason}", f"frozen from {window}")
    return ruling


def _intended_action(ruling: RolloutDecision, policy: RolloutPolicy, share: float) -> str:
    if ruling.kind == "advance":
        return "promote" if share == policy.steps[-1] else "advance"
    return f"drop v{ruling.versions[0]}" if ruling.kind == "drop" else "abort"


def _hold(ruling: RolloutDecision, reason: str, remark: str) -> RolloutDecision:
    return ruling.model_copy(update={"kind": "hold", "reason": reason, "remark": remark})
