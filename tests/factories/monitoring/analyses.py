"""Results of log analyses, and a runner whose results a test decides."""

from __future__ import annotations

import numpy as np

from monitoring.analysis.log_analysis import AnalysisRequest, AnalysisResult, Finding, WindowQuality
from monitoring.drift_policy import DAY_S
from monitoring.performance.loss_bounds import LabeledLoss, bound_loss


class ManualRunner:
    """An analysis runner that ends an analysis when a test sets ``outcome``."""

    def __init__(self) -> None:
        self.requests: list[AnalysisRequest] = []
        self.outcome: AnalysisResult | str | None = None

    def start(self, request: AnalysisRequest) -> None:
        self.requests.append(request)

    def poll(self) -> AnalysisResult | str | None:
        outcome, self.outcome = self.outcome, None
        return outcome


def analysis_result(window: float, *findings: Finding) -> AnalysisResult:
    """An analysis of version 1 in which a fifth of 200 labels is wrong."""
    labeled = LabeledLoss.from_losses(np.arange(200) % 5 == 0, 400)
    quality = WindowQuality(
        version="1",
        window=window,
        labeled=labeled,
        limits=bound_loss(labeled, 0.05),
        reference=0.1,
        worse=True,
        observed={"accuracy": 0.8},
        estimated={"CBPE": {"accuracy": 0.9}},
    )
    return AnalysisResult(version="1", window=window, since=window, rows=400, quality=(quality,), findings=findings)


def quality_finding(day: int, name: str = "") -> Finding:
    return Finding(kind="quality", window=day * DAY_S, reason=f"day {day}", name=name, features={"loss": 2.0})
