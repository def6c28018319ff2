"""Which analysis of logged rows is due, what analyses have found, and which findings are new. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from cluster.values import Frozen, stored_name
from monitoring.analysis.log_analysis import AnalysisRequest, AnalysisResult, Finding, WindowQuality
from monitoring.detection.detector import WindowResult
from monitoring.drift_policy import DriftPolicy
from monitoring.retraining.retrain_gain import WindowGain

MAX_ANALYSES = 100
"""Analyses that are kept."""
MAX_RANKED_COLUMNS = 20
"""Columns that a kept analysis ranks."""
MAX_QUALITY = 1_000
"""Results of windows and segments that are kept, the newest."""


class SchedulerState(Frozen):
    """What a scheduler remembers."""

    due: AnalysisRequest | None = None
    """The next analysis."""
    analyses: Annotated[tuple[AnalysisResult, ...], stored_name("analyses", "looks")] = ()
    """Results, oldest first, without what takes much space."""
    quality: tuple[WindowQuality, ...] = ()
    """Newest quality of each window and segment."""
    episodes: Annotated[dict[str, float], stored_name("episodes", "spells")] = Field(default_factory=dict)
    """Newest window of each kind of finding, seconds since the epoch."""
    ordinary: tuple[float, ...] = ()
    """AUCs of the reference's own runs."""
    gains: tuple[WindowGain, ...] = ()
    """Newest losses of each window of retrained versions, against those of the versions that they replaced."""


class AnalysisScheduler:
    """Schedules the analyses of one model. Only the newest run waits: a late analysis of an older one adds nothing."""

    def __init__(self, state: SchedulerState | None = None) -> None:
        """Start empty, or continue from ``state``."""
        self.state = state or SchedulerState()

    def reset(self) -> None:
        """Follow another version: results stay; due analyses and running episodes end."""
        self._set(due=None, episodes={}, ordinary=())

    def latest(self, version: str) -> AnalysisResult | None:
        """The last analysis of a version, with the quality of its windows as far as it is known."""
        analyses = [result for result in self.state.analyses if result.version == version]
        quality = tuple(q for q in self.state.quality if q.version == version)
        return analyses[-1].model_copy(update={"quality": quality}) if analyses else None

    def schedule(self, model: str, policy: DriftPolicy, results: Sequence[WindowResult]) -> None:
        """Schedule the newest closed window, with all windows whose labels may still arrive."""
        newest = results[-1]
        if policy.log_analysis is None or not newest.judged:
            return
        since = newest.window - policy.log_analysis.label_wait_s
        windows = {r.window for r in results if r.version == newest.version and r.window > since}
        due = AnalysisRequest(
            model=model,
            version=newest.version,
            windows=tuple(sorted(windows)),
            since=newest.since,
            policy=policy,
            ordinary=self.state.ordinary,
        )
        self._set(due=due)

    def record(self, request: AnalysisRequest, result: AnalysisResult) -> list[Finding]:
        """Record an analysis. Returns the findings that start an episode, by window."""
        self.finish(request)
        newest = {(q.version, q.window, q.segment): q for q in (*self.state.quality, *result.quality)}
        ordered = sorted(newest.values(), key=lambda q: q.window)[-MAX_QUALITY:]
        gains = {(gain.version, gain.window): gain for gain in (*self.state.gains, *result.gains)}
        self._set(
            gains=tuple(sorted(gains.values(), key=lambda gain: gain.window)[-MAX_QUALITY:]),
            analyses=(*self.state.analyses, _compact(result))[-MAX_ANALYSES:],
            quality=_with_estimates(ordered, self.state.quality),
            ordinary=result.multivariate.ordinary if result.multivariate else request.ordinary,
        )
        findings = sorted(result.findings, key=lambda finding: finding.window)
        return [finding for finding in findings if self._is_new(finding, request.policy)]

    def finish(self, request: AnalysisRequest) -> None:
        """An analysis has ended. One that failed is not repeated."""
        if self.state.due == request:
            self._set(due=None)

    def _is_new(self, finding: Finding, policy: DriftPolicy) -> bool:
        key, episodes = f"{finding.kind} {finding.name}".strip(), self.state.episodes
        before = episodes.get(key)
        self._set(episodes={**episodes, key: max(finding.window, before if before is not None else finding.window)})
        # As for drift: silent until ``release`` windows in a row were quiet.
        return before is None or finding.window > before + policy.release * policy.window_s

    def _set(self, **changes: object) -> None:
        self.state = self.state.model_copy(update=changes)


def _compact(result: AnalysisResult) -> AnalysisResult:
    """An analysis without bulk: segments keep drifted columns, the classifier the first ranked ones."""
    multivariate = result.multivariate
    if multivariate is not None:
        ranked = multivariate.separation.ranked[:MAX_RANKED_COLUMNS]
        separation = multivariate.separation.model_copy(update={"ranked": ranked})
        multivariate = multivariate.model_copy(update={"separation": separation, "ordinary": ()})
    segments = {
        name: segment.model_copy(update={"columns": {column: segment.columns[column] for column in segment.drifted}})
        for name, segment in result.segments.items()
    }
    return result.model_copy(update={"quality": (), "gains": (), "multivariate": multivariate, "segments": segments})


def _with_estimates(quality: Sequence[WindowQuality], before: Sequence[WindowQuality]) -> tuple[WindowQuality, ...]:
    """PAPE and intervals are computed once, while a window is the newest: they are kept along with later estimates."""
    known = {(q.version, q.window, q.segment): q for q in before}
    return tuple(_with_estimate(q, known.get((q.version, q.window, q.segment), q)) for q in quality)


def _with_estimate(quality: WindowQuality, before: WindowQuality) -> WindowQuality:
    estimated = {**before.estimated, **quality.estimated}
    return quality.model_copy(update={"estimated": estimated, "estimate": quality.estimate or before.estimate})
