"""Which findings start an episode, and what is kept of analyses."""

from __future__ import annotations

from monitoring.analysis.analysis_scheduler import AnalysisScheduler
from monitoring.analysis.log_analysis import AnalysisRequest, Finding
from monitoring.analysis.multivariate_drift import MultivariateDrift
from monitoring.detection.detector import evaluate_run
from monitoring.drift_policy import DAY_S, DriftPolicy
from monitoring.performance.estimate_intervals import MetricInterval, WindowEstimate
from monitoring.samples.domain_classifier import Separability
from monitoring.statistics.drift_reference import DriftReference
from tests.factories.monitoring import streams
from tests.factories.monitoring.analyses import analysis_result, quality_finding

POLICY = DriftPolicy(span=2, min_rows=100, cooldown_s=0)


def test_record_returns_findings_once_per_episode():
    scheduler, policy = AnalysisScheduler(), POLICY.model_copy(update={"release": 2})
    request = AnalysisRequest(model="m", version="1", windows=(DAY_S,), since=DAY_S, policy=policy)

    def news(*findings: Finding) -> list[str]:
        return [one.reason for one in scheduler.record(request, analysis_result(DAY_S, *findings))]

    assert news(quality_finding(5)) == ["day 5"]
    assert news(quality_finding(5), quality_finding(6), quality_finding(7)) == []
    assert news(quality_finding(9), quality_finding(9, "shop = a")) == ["day 9"]
    assert news(quality_finding(12)) == ["day 12"]
    assert news(quality_finding(4)) == []
    scheduler.reset()
    assert news(quality_finding(12)) == ["day 12"]


def test_estimate_of_a_window_is_kept_when_the_window_is_no_longer_the_newest():
    scheduler = AnalysisScheduler()
    request = AnalysisRequest(model="m", version="1", windows=(DAY_S,), since=DAY_S, policy=POLICY)
    plain = analysis_result(DAY_S)
    estimate = WindowEstimate(intervals={"brier": MetricInterval(value=0.2, low=0.1, high=0.3)})
    first = plain.quality[0].model_copy(update={"estimate": estimate})
    scheduler.record(request, plain.model_copy(update={"quality": (first,)}))
    scheduler.record(request, plain)
    assert [quality.estimate for quality in scheduler.state.quality] == [estimate]


def test_record_keeps_little_of_a_wide_model():
    drift_reference = DriftReference(streams.reference(0), 1, ())
    live = streams.windows(1, 1, 300, first=100, shift=2.0)[100 * DAY_S]
    result = evaluate_run(drift_reference, POLICY.model_copy(update={"span": 1}), "1", (100 * DAY_S,), live)
    ranked = tuple((f"x{i}", 0.001) for i in range(1_000))
    separability = Separability(auc=0.7, low=0.6, high=0.8, p_value=0.1, ranked=ranked)
    analysis = analysis_result(DAY_S).model_copy(
        update={
            "segments": {"shop = a": result},
            "multivariate": MultivariateDrift(separation=separability, p_value=0.1, drifted=False, ordinary=(0.5,)),
        }
    )
    scheduler = AnalysisScheduler()
    scheduler.record(AnalysisRequest(model="m", version="1", windows=(DAY_S,), since=DAY_S, policy=POLICY), analysis)
    (stored,) = scheduler.state.analyses
    assert set(stored.segments["shop = a"].columns) == set(result.drifted) < set(result.columns)
    assert len(stored.multivariate.separation.ranked) == 20
    assert (scheduler.state.ordinary, len(scheduler.state.quality)) == ((0.5,), 1)
