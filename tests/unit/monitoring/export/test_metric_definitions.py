"""Values of metrics from a new version, a window and used resources, each with its gauge's labels."""

from __future__ import annotations

from features.disparity import DisparityLimit
from monitoring.analysis.group_disparity import GroupDisparity
from monitoring.analysis.log_analysis import AnalysisResult
from monitoring.detection.detector import ColumnResult, WindowResult
from monitoring.drift_policy import DriftPolicy, LogAnalysisPolicy
from monitoring.export.cost import ResourcePrices, UsageTotals
from monitoring.export.metric_definitions import (
    GAUGES,
    MetricValue,
    analysis_metrics,
    policy_metrics,
    usage_metrics,
    version_metrics,
    window_metrics,
)
from monitoring.performance.loss_bounds import RateCount
from monitoring.statistics.distances import Distances


def test_version_without_results_ends_alerts() -> None:
    assert list(version_metrics("m", "2")) == [
        MetricValue("rayloop_drift_drifting", ("m", "2"), 0.0),
        MetricValue("rayloop_loss_worse", ("m", "2", ""), 0.0),
    ]


def test_policy_gives_the_false_alarms_of_each_kind() -> None:
    policy = DriftPolicy(false_alarms=1.0, window_s=3600.0, weights={"labels": 0.0})
    values = {labels: round(value, 9) for _, labels, value in policy_metrics("m", "2", policy)}
    parts = {"drift": 0.5, "quality": 0.25, "segment": 0.0, "multivariate": 0.125, "labels": 0.0, "estimate": 0.125}
    assert values == {("m", "2", kind): part for kind, part in (parts | {"fairness": 0.0}).items()}


def test_limits_start_unexceeded_and_follow_the_analysis() -> None:
    limit = DisparityLimit(column="sex", rate="positive", max_difference=0.125, groups=("f", "m"))
    policy = DriftPolicy(log_analysis=LogAnalysisPolicy(disparity=(limit,)))
    labels = ("m", "2", "positive rate by sex")
    assert MetricValue("rayloop_disparity_exceeded", labels, 0.0) in list(policy_metrics("m", "2", policy))
    groups = {"f": RateCount(8, 6), "m": RateCount(4, 1)}
    disparity = GroupDisparity(name=limit.name, limit=0.125, since=0.0, groups=groups, low=0.25)
    result = AnalysisResult(version="2", window=60.0, since=0.0, rows=12, disparities=(disparity,))
    assert list(analysis_metrics("m", result)) == [
        MetricValue("rayloop_disparity", labels, 0.5),
        MetricValue("rayloop_disparity_low", labels, 0.25),
        MetricValue("rayloop_disparity_allowed", labels, 0.125),
        MetricValue("rayloop_disparity_exceeded", labels, 1.0),
    ]


def test_window_gives_its_values_and_those_of_each_column() -> None:
    distances = Distances(
        rows=300, reference_rows=900, statistic=0.25, psi=0.5, jensen_shannon=0.1, chi_square=9.0, freedom=3,
        nulls=0.125, new=0.0625,
    )  # fmt: skip
    column = ColumnResult(
        distances=distances, direction="up", threshold=0.1, ratio=2.5, p_value=0.01, watched=True, drifted=True
    )
    window = WindowResult(version="2", window=60.0, since=0.0, rows=300, judged=True, columns={"x": column})
    values = {(name, labels): value for name, labels, value in window_metrics("m", window, True)}
    assert values == {
        ("rayloop_drift_window_rows", ("m", "2")): 300,
        ("rayloop_drift_window_start_seconds", ("m", "2")): 60.0,
        ("rayloop_drift_drifting", ("m", "2")): 1.0,
        ("rayloop_drift_ratio", ("m", "2", "x")): 2.5,
        ("rayloop_drift_distance", ("m", "2", "x")): 0.25,
        ("rayloop_drift_psi", ("m", "2", "x")): 0.5,
        ("rayloop_drift_missing_difference", ("m", "2", "x")): 0.125,
        ("rayloop_drift_new_share", ("m", "2", "x")): 0.0625,
    }
    assert all(len(labels) == len(GAUGES[name][1]) for name, labels in values)


def test_usage_gives_times_and_the_cost_by_tag() -> None:
    usage = UsageTotals(reserved_cpu_s=7200.0, cpu_s=360.0)
    prices = ResourcePrices(cpu=0.5)
    values = list(usage_metrics("m", usage, 2, {"team": "ads"}, prices))
    assert values == [
        MetricValue("rayloop_replicas", ("m",), 2),
        MetricValue("rayloop_cpu_seconds", ("m", "reserved"), 7200.0),
        MetricValue("rayloop_cpu_seconds", ("m", "used"), 360.0),
        MetricValue("rayloop_gpu_seconds", ("m",), 0.0),
        MetricValue("rayloop_cost", ("m", "", ""), 1.0),
        MetricValue("rayloop_cost", ("m", "team", "ads"), 1.0),
    ]
