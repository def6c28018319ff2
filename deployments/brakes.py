"""What keeps a verdict from being carried out: bake time, freeze windows, a dry run. Pure.

Only a dry run keeps harm from aborting.
"""

from __future__ import annotations

from deployments.judge import Verdict
from deployments.policy import RolloutPolicy


def braked(verdict: Verdict, policy: RolloutPolicy, share: float, bake_left_s: float, now: float) -> Verdict:
    """The verdict, or a hold that says what it would have been, and why it is not."""
    if policy.dry_run and verdict.kind != "hold":
        would = _would(verdict, policy, share)
        return _held(verdict, f"dry run, would {would}: {verdict.reason}", f"dry run: {would}")
    if verdict.kind != "advance":
        return verdict
    if bake_left_s > 0.0:
        return _held(
            verdict, f"bakes at {share:.0%}, {bake_left_s:.0f} s more; {verdict.reason}", f"bakes at {share:.0%}"
        )
    for window in policy.freezes:
        if window.holds(now):
            return _held(verdict, f"frozen from {window}; {verdict.reason}", f"frozen from {window}")
    return verdict


def _would(verdict: Verdict, policy: RolloutPolicy, share: float) -> str:
    if verdict.kind == "advance":
        return "promote" if share == policy.steps[-1] else "advance"
    return "abort"


def _held(verdict: Verdict, reason: str, remark: str) -> Verdict:
    return verdict.model_copy(update={"kind": "hold", "reason": reason, "remark": remark})
