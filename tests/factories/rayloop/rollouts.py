"""The status of a rollout, as the controller returns it."""

from __future__ import annotations

from cluster.values import Decision
from deployments.analysis.verdict import Verdict
from deployments.rollout.rollout_status import RolloutStatus
from deployments.rollout.state_machine import begin, drop_challenger, journal_entry
from deployments.rollout_policy import RolloutPolicy


def rollout_status(*dropped: str, challengers: tuple[str, ...] = ("2", "3", "4")) -> RolloutStatus:
    """A rollout that began at 100 s; ``dropped`` are the challengers that left it at 101 s."""
    state = begin("r1", "trips", "1", challengers, RolloutPolicy(steps=(0.1, 1.0)), 100.0)
    decisions: list[Decision] = [journal_entry(state, "start", 100.0, {})]
    for version in dropped:
        state, decision = drop_challenger(state, version, f"v{version}: the challenger is worse", 101.0, {})
        decisions.append(decision)
    verdicts = {version: Verdict(kind="hold", reason=f"undecided on {version}", figures={}) for version in challengers}
    return RolloutStatus(state=state, applied=True, evidence={}, verdicts=verdicts, decisions=tuple(decisions))
