"""Result of one check of the evidence. Pure."""

from __future__ import annotations

import math

from cluster.values import Frozen
from deployments.analysis.validity.contrasts import Estimate
from deployments.rollout_policy import EvidenceCheck

SCALE = 0.05
"""Differences between the variants, of variables in [0, 1], that are found soonest."""


class CheckResult(Frozen):
    """Result of one check."""

    check: EvidenceCheck
    log_e: float = 0.0
    """Evidence against "sound"; infinite where a single row shows it."""
    finding: str = ""
    """What is wrong, should the check fail."""
    ids: tuple[str, ...] = ()
    """Rows to look at."""

    @property
    def reason(self) -> str:
        """Why the evidence is invalid, should the check fail."""
        rows = f"; see rows {', '.join(self.ids)}" if self.ids else ""
        return f"the evidence is invalid ({self.check}): {self.finding}{rows}"


def strongest(log_e: list[float], tests: int = 0) -> float:
    """The largest of several log e-values, less the log of their number."""
    return max(log_e) - math.log(max(tests, len(log_e))) if log_e else 0.0


def format_estimates(estimates: tuple[Estimate, ...]) -> str:
    """Values of estimates in hundredths, for people: percentage points, or ranks out of 100."""
    return ", ".join(f"{100.0 * estimate.value:+.1f}" for estimate in estimates) or "none"
