"""What keeps a ruling from being carried out: bake time, freeze windows, a dry run. Pure.

Only a dry run keeps harm from aborting.
"""

from __future__ import annotations

from deployments.analysis.verdict import Ruling
from deployments.rollout_policy import RolloutPolicy


def braked(ruling: Ruling, policy: RolloutPolicy, share: float, bake_left_s: float, now: float) -> Ruling:
    """The ruling, or a hold that says what it would have been, and why it is not."""
    if policy.dry_run and ruling.kind != "hold":
        would = _would(ruling, policy, share)
        return _held(ruling, f"dry run, would {would}: {ruling.reason}", f"dry run: {would}")
    if ruling.kind != "advance":
        return ruling
    if bake_left_s > 0.0:
        return _held(
            ruling, f"bakes at {share:.0%}, {bake_left_s:.0f} s more; {ruling.reason}", f"bakes at {share:.0%}"
        )
    for window in policy.freezes:
        if window.holds(now):
            return _held(ruling, f"frozen from {window}; {ruling.reason}", f"frozen from {window}")
    return ruling


def _would(ruling: Ruling, policy: RolloutPolicy, share: float) -> str:
    if ruling.kind == "advance":
        return "promote" if share == policy.steps[-1] else "advance"
    return f"drop v{ruling.versions[0]}" if ruling.kind == "drop" else "abort"


def _held(ruling: Ruling, reason: str, remark: str) -> Ruling:
    return ruling.model_copy(update={"kind": "hold", "reason": reason, "remark": remark})
