"""Analysis of rows: planted drift is found and named, and nothing else is."""

from __future__ import annotations

from functools import cache

import numpy as np
import pyarrow as pa
import pytest

from cluster.values import Task
from features.definitions import Column
from monitoring.analysis.log_analysis import AnalysisRequest, AnalysisResult, analyze
from monitoring.analysis.multivariate_drift import measure_multivariate_drift
from monitoring.analysis.segment_drift import ReferenceRows
from monitoring.drift_policy import DAY_S, DriftPolicy, LogAnalysisPolicy
from monitoring.performance import estimator as performance
from monitoring.samples.logged_rows import LoggedRows

COLUMNS = (Column(name="a", kind="number"), Column(name="b", kind="number"), Column(name="shop", kind="category"))
BINARY = Task(kind="binary", label="late")
TASKS = (BINARY, Task(kind="multiclass", label="kind", classes=("x", "y", "z")), Task(kind="regression", label="sold"))
POLICY = DriftPolicy(span=2, min_rows=100, log_analysis=LogAnalysisPolicy(segments=("shop",), sample=1_500, to_label=5))
DAYS, PER_DAY = 60, 120


def rows(
    seed: int, first: int, days: int, per_day: int = PER_DAY, task: Task = BINARY, labels: float = 1.0
) -> LoggedRows:
    """Rows of which the two numbers go together, scores that are right on average, and labels for a share of them."""
    rng = np.random.default_rng(seed)
    n = days * per_day
    a = rng.normal(size=n)
    b = a + 0.3 * rng.normal(size=n)
    shop = rng.choice(["north", "south", "tiny"], n, p=[0.5, 0.48, 0.02])
    chance = 1 / (1 + np.exp(-2 * a))
    if task.kind == "binary":
        scores, truth = chance, (rng.random(n) < chance).astype(float)
    elif task.kind == "multiclass":
        scores = np.column_stack([chance / 2, chance / 2, 1 - chance])
        truth = (scores.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).astype(float)
    else:
        scores, truth = a, a + rng.normal(size=n)
    truth[rng.random(n) >= labels] = np.nan
    when = np.repeat((first + np.arange(days)) * DAY_S, per_day) + rng.uniform(0, DAY_S - 1, n)
    ids = np.array([f"{seed}-{i}" for i in range(n)], object)
    return LoggedRows(pa.table({"a": a, "b": b, "shop": shop}), ids, when, scores, truth)


def changed(logged: LoggedRows, **columns: np.ndarray) -> LoggedRows:
    frame = logged.frame
    for name, values in columns.items():
        if name in frame.column_names:
            frame = frame.set_column(frame.column_names.index(name), name, pa.array(values))
    return LoggedRows(
        frame, logged.ids, logged.times, columns.get("scores", logged.scores), columns.get("labels", logged.labels)
    )


@cache
def ordinary() -> tuple[float, ...]:
    """AUCs among ordinary runs; features are the same for every task."""
    return measure_multivariate_drift(
        rows(1, 0, DAYS), rows(3, 100, 2, 400), COLUMNS, POLICY, POLICY.log_analysis
    ).ordinary


def run_analysis(live: LoggedRows, task: Task = BINARY) -> AnalysisResult:
    past = ReferenceRows(rows(1, 0, DAYS, task=task), rows(2, DAYS, 10, task=task))
    windows = tuple(float(d) * DAY_S for d in range(100, 104))
    request = AnalysisRequest(
        model="m", version="1", windows=windows, since=windows[-2], policy=POLICY, ordinary=ordinary()
    )
    return analyze(request, task, COLUMNS, past, live)


@pytest.mark.long
@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.kind)
def test_ordinary_days_have_no_findings(task):
    analysis = run_analysis(rows(3, 100, 4, 400, task), task)
    assert analysis.findings == ()
    assert analysis.faults == ()
    assert analysis.rows == 800
    whole = [q for q in analysis.quality if not q.segment]
    assert [q.window / DAY_S for q in whole] == [100, 101, 102, 103]
    method = "DLE" if task.kind == "regression" else "CBPE"
    for q in whole:
        metric = "mae" if task.kind == "regression" else "accuracy"
        assert q.estimated[method][metric] == pytest.approx(q.observed[metric], abs=0.08)
        assert q.labeled.share == 1.0
        assert q.limits.low < q.reference < q.limits.high
    assert ("PAPE" in whole[-1].estimated) is (task.kind != "regression")
    assert all(len(q.estimated) == 1 for q in whole[:-1])


@pytest.mark.long
def test_columns_that_lost_their_correlation_are_found_and_named():
    live = rows(3, 100, 4, 400)
    shuffled = np.random.default_rng(0).permutation(live.frame["b"].to_numpy())
    analysis = run_analysis(changed(live, b=shuffled))
    (finding,) = [f for f in analysis.findings if f.kind == "multivariate"]
    assert set(list(finding.features)[:2]) == {"a", "b"}
    assert analysis.multivariate.separation.auc > 0.7
    # No single column moved, in all traffic or in a segment.
    assert not [f for f in analysis.findings if f.kind == "segment"]


@pytest.mark.long
def test_ordinary_variation_of_days_is_not_multivariate_drift():
    """Each day has its own weather, by which a classifier recognizes it: the live one too."""

    def weather(logged: LoggedRows, seed: int) -> LoggedRows:
        day = np.floor(logged.times / DAY_S).astype(int)
        effect = np.random.default_rng(seed).normal(0, 1.5, 200)
        return changed(logged, b=logged.frame["b"].to_numpy() + effect[day])

    past = ReferenceRows(weather(rows(1, 0, DAYS), 7), weather(rows(2, DAYS, 10), 7))
    request = AnalysisRequest(
        model="m", version="1", windows=(100 * DAY_S, 101 * DAY_S), since=100 * DAY_S, policy=POLICY
    )
    analysis = analyze(request, BINARY, COLUMNS, past, weather(rows(3, 100, 2, 400), 7))
    assert analysis.multivariate.separation.p_value < 1e-6
    assert not analysis.multivariate.drifted
    assert len(analysis.multivariate.ordinary) >= 12


def test_drift_in_one_segment_is_found_only_there():
    live = rows(3, 100, 4, 400)
    south = np.asarray(live.frame["shop"].to_pylist()) == "south"
    analysis = run_analysis(changed(live, a=live.frame["a"].to_numpy() + 1.5 * south))
    assert [f.name for f in analysis.findings if f.kind == "segment"] == ["shop = south"]
    assert analysis.segments["shop = south"].drifted == ("a",)
    assert "shop = tiny" not in analysis.segments


def test_label_drift_and_larger_loss_are_found_by_window_and_segment():
    live = rows(3, 100, 4, 400)
    south = np.asarray(live.frame["shop"].to_pylist()) == "south"
    late = live.times >= 102 * DAY_S
    labels = np.where(south & late, 1.0 - np.round(live.scores), live.labels)
    analysis = run_analysis(changed(live, labels=labels))
    worse = {(q.window / DAY_S, q.segment) for q in analysis.quality if q.worse}
    assert {(102, "shop = south"), (103, "shop = south")} <= worse
    assert not [w for w in worse if w[0] < 102 or w[1] == "shop = north"]
    finding = next(f for f in analysis.findings if f.kind == "quality" and f.name == "shop = south")
    assert "on held-out rows" in finding.reason
    ones = changed(live, labels=np.ones(len(live)))
    assert [f.kind for f in run_analysis(ones).findings if f.kind == "labels"] == ["labels"]


def test_unsure_model_has_lower_estimated_performance():
    live = rows(3, 100, 4, 400)
    unsure = changed(live, scores=0.5 + 0.02 * (live.scores - 0.5), labels=np.full(len(live), np.nan))
    analysis = run_analysis(unsure)
    (finding,) = [f for f in analysis.findings if f.kind == "estimate"]
    assert "brier, estimated without labels" in finding.reason
    assert all(q.labeled.n == 0 and q.limits is None and not q.worse for q in analysis.quality)


def test_newest_window_has_intervals_unless_earlier_labels_contradict_them():
    live = rows(3, 100, 4, 400)
    newest = live.times >= 103 * DAY_S
    late = changed(live, labels=np.where(newest, np.nan, live.labels))
    whole = [q for q in run_analysis(late).quality if not q.segment]
    assert [q.estimate is None for q in whole] == [True, True, True, False]
    estimate = whole[-1].estimate
    assert (estimate.code, set(estimate.intervals)) == ("", {"accuracy", "brier"})
    truth = performance.observed_metrics(BINARY, live.select(newest))
    assert all(i.low <= truth[name] <= i.high for name, i in estimate.intervals.items())
    assert all(i.low <= i.value <= i.high for i in estimate.intervals.values())
    inverted = changed(live, labels=np.where(newest, np.nan, 1.0 - live.labels))
    refused = [q for q in run_analysis(inverted).quality if not q.segment][-1].estimate
    assert (refused.code, refused.intervals) == ("data.estimate_contradicted", {})


def test_kinds_of_weight_zero_are_not_looked_for():
    live = rows(3, 100, 4, 400)
    ones = changed(live, labels=np.ones(len(live)), scores=np.full(len(live), 0.5))
    policy = POLICY.model_copy(
        update={"weights": dict.fromkeys(("multivariate", "labels", "quality", "estimate"), 0.0)}
    )
    windows = (102 * DAY_S, 103 * DAY_S)
    request = AnalysisRequest(model="m", version="1", windows=windows, since=windows[0], policy=policy)
    past = ReferenceRows(rows(1, 0, DAYS), rows(2, DAYS, 10))
    analysis = analyze(request, BINARY, COLUMNS, past, ones)
    assert {finding.kind for finding in analysis.findings} <= {"segment"}
    assert (analysis.multivariate, analysis.labels) == (None, None)
    assert not any(q.worse for q in analysis.quality)
    assert all(q.limits is not None for q in analysis.quality if q.labeled.n >= 30)


def test_label_candidates_are_unlabeled_rows_of_which_the_model_is_least_sure():
    live = rows(3, 100, 4, 400, labels=0.5)
    analysis = run_analysis(live)
    assert len(analysis.label_candidates) == 5
    scores = {i: s for i, s, y in zip(live.ids, live.scores, live.labels, strict=True) if np.isnan(y)}
    assert all(abs(scores[w.id] - 0.5) < 0.25 for w in analysis.label_candidates)
    assert [w.expected_loss for w in analysis.label_candidates] == sorted(
        (w.expected_loss for w in analysis.label_candidates), reverse=True
    )


def test_parts_that_cannot_be_analyzed_are_reported_as_faults():
    past = ReferenceRows(rows(1, 0, DAYS), rows(2, DAYS, 1, 1))
    request = AnalysisRequest(model="m", version="1", windows=(100 * DAY_S,), since=100 * DAY_S, policy=POLICY)
    analysis = analyze(request, BINARY, COLUMNS[:0], past, rows(3, 100, 1, 300))
    assert [fault.partition(":")[0] for fault in analysis.faults] == [
        "performance is not estimated",
        "multivariate drift is not measured",
    ]
    assert analysis.quality[0].reference is None
    assert analysis.quality[0].observed["accuracy"] > 0.5


def test_damaged_rows_do_not_stop_an_analysis():
    live = rows(3, 100, 4, 300)
    n = len(live)
    poison = changed(
        live, a=np.where(np.arange(n) % 3 == 0, np.inf, np.nan), shop=np.array([f"v{i}" for i in range(n)])
    )
    analysis = run_analysis(poison)
    assert [f for f in analysis.findings if f.kind == "multivariate"]
    assert AnalysisResult.model_validate_json(analysis.model_dump_json()) == analysis


def estimate_findings(live: LoggedRows, *days: int) -> list[float]:
    """Days with a finding about the estimate, by scores alone."""
    policy = POLICY.model_copy(update={"log_analysis": LogAnalysisPolicy()})
    windows = tuple(day * DAY_S for day in days)
    request = AnalysisRequest(model="m", version="1", windows=windows, since=windows[-1], policy=policy)
    past = ReferenceRows(rows(1, 0, 2), rows(2, DAYS, 10))
    findings = analyze(request, BINARY, (), past, live).findings
    return [finding.window / DAY_S for finding in findings if finding.kind == "estimate"]


@pytest.mark.parametrize(("count", "days"), [(POLICY.min_rows - 1, []), (POLICY.min_rows, [100])])
def test_estimate_of_too_few_rows_is_no_finding(count, days):
    live = rows(3, 100, 1, count)
    assert estimate_findings(changed(live, scores=0.5 + 0.02 * (live.scores - 0.5)), 100) == days


@pytest.mark.parametrize(("unsure_day", "days"), [(100, []), (101, [101])])
def test_estimate_is_a_finding_only_in_the_newest_window(unsure_day, days):
    live = rows(3, 100, 2, 200)
    inside = np.floor(live.times / DAY_S) == unsure_day
    assert estimate_findings(changed(live, scores=np.where(inside, 0.5, live.scores)), 100, 101) == days
