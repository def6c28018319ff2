"""What a controller tells about a model's newest rollout. Pure."""

from __future__ import annotations

from cluster.values import Decision, Frozen
from deployments.analysis.evidence import RolloutEvidence
from deployments.analysis.verdict import Verdict
from deployments.rollout.probation import LateVerdict
from deployments.rollout.state_machine import RolloutState


class RolloutStatus(Frozen):
    """State, evidence and journal of a model's newest rollout."""

    state: RolloutState | None
    """None before the model's first rollout."""
    applied: bool
    """Whether Serve and the aliases agree with the state."""
    evidence: dict[str, RolloutEvidence]
    """Newest evidence, by challenger version."""
    verdicts: dict[str, Verdict]
    """Newest verdicts, by challenger version."""
    decisions: tuple[Decision, ...]
    """Journal entries of the newest rollout, oldest first."""
    late_verdict: LateVerdict | None = None
    """Newest verdict on a version that is on probation; None before the first, and for other rollouts."""

    @property
    def finished(self) -> bool:
        """Whether there was a rollout, and it has ended and been applied."""
        return self.state is not None and self.applied and not self.state.active

    @property
    def requests(self) -> int:
        """Requests of all variants in the evidence."""
        totals = [evidence.total for evidence in self.evidence.values()]
        return max((total.champion.requests for total in totals), default=0) + sum(
            total.challenger.requests for total in totals
        )
