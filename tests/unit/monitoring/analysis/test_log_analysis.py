"""A look at rows: what is planted is found, by name; what is not there is not."""

from __future__ import annotations

from functools import cache

import numpy as np
import pyarrow as pa
import pytest

from cluster.values import Task
from features.definitions import Column
from monitoring.analysis.log_analysis import Asked, Looked, look
from monitoring.analysis.multivariate_drift import compare
from monitoring.analysis.segment_drift import Past
from monitoring.drift_policy import DAY_S, DriftPolicy, LookPolicy
from monitoring.samples.logged_rows import Rows

COLUMNS = (
    Column(name="a", kind="number"),
    Column(name="b", kind="number"),
    Column(name="shop", kind="category"),
)
BINARY = Task(kind="binary", label="late")
TASKS = (BINARY, Task(kind="multiclass", label="kind", classes=("x", "y", "z")), Task(kind="regression", label="sold"))
POLICY = DriftPolicy(span=2, min_rows=100, look=LookPolicy(segments=("shop",), sample=1_500, to_label=5))
DAYS, PER_DAY = 60, 120


def rows(seed: int, first: int, days: int, per_day: int = PER_DAY, task: Task = BINARY, labels: float = 1.0) -> Rows:
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
    return Rows(pa.table({"a": a, "b": b, "shop": shop}), ids, when, scores, truth)


def changed(found: Rows, **columns: np.ndarray) -> Rows:
    frame = found.frame
    for name, values in columns.items():
        if name in frame.column_names:
            frame = frame.set_column(frame.column_names.index(name), name, pa.array(values))
    return Rows(frame, found.ids, found.when, columns.get("scores", found.scores), columns.get("labels", found.labels))


@cache
def ordinary() -> tuple[float, ...]:
    """AUCs among ordinary runs; features are the same whatever the task."""
    return compare(rows(1, 0, DAYS), rows(3, 100, 2, 400), COLUMNS, POLICY, POLICY.look).ordinary


def looked(live: Rows, task: Task = BINARY) -> Looked:
    past = Past(rows(1, 0, DAYS, task=task), rows(2, DAYS, 10, task=task))
    windows = tuple(float(d) * DAY_S for d in range(100, 104))
    asked = Asked(model="m", version="1", windows=windows, since=windows[-2], policy=POLICY, ordinary=ordinary())
    return look(asked, task, COLUMNS, past, live)


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.kind)
def test_ordinary_days_give_no_finding(task):
    found = looked(rows(3, 100, 4, 400, task), task)
    assert found.findings == ()
    assert found.faults == ()
    assert found.rows == 800
    whole = [q for q in found.quality if not q.segment]
    assert [q.window / DAY_S for q in whole] == [100, 101, 102, 103]
    method = "DLE" if task.kind == "regression" else "CBPE"
    for q in whole:
        metric = "mae" if task.kind == "regression" else "accuracy"
        assert q.estimated[method][metric] == pytest.approx(q.observed[metric], abs=0.08)
        assert q.labelled.share == 1.0
        assert q.limits.low < q.reference < q.limits.high
    assert ("PAPE" in whole[-1].estimated) is (task.kind != "regression")
    assert all(len(q.estimated) == 1 for q in whole[:-1])


def test_two_columns_that_stopped_going_together_are_told_apart_and_named():
    live = rows(3, 100, 4, 400)
    shuffled = np.random.default_rng(0).permutation(live.frame["b"].to_numpy())
    found = looked(changed(live, b=shuffled))
    (finding,) = [f for f in found.findings if f.kind == "multivariate"]
    assert set(list(finding.features)[:2]) == {"a", "b"}
    assert found.multivariate.separation.auc > 0.7
    # No single column moved, in the whole or in a part.
    assert not [f for f in found.findings if f.kind == "segment"]


def test_ordinary_variation_of_days_is_not_multivariate_drift():
    """Each day has a weather of its own, by which a classifier knows it: so has the live one."""

    def weather(found: Rows, seed: int) -> Rows:
        day = np.floor(found.when / DAY_S).astype(int)
        effect = np.random.default_rng(seed).normal(0, 1.5, 200)
        return changed(found, b=found.frame["b"].to_numpy() + effect[day])

    past = Past(weather(rows(1, 0, DAYS), 7), weather(rows(2, DAYS, 10), 7))
    asked = Asked(model="m", version="1", windows=(100 * DAY_S, 101 * DAY_S), since=100 * DAY_S, policy=POLICY)
    found = look(asked, BINARY, COLUMNS, past, weather(rows(3, 100, 2, 400), 7))
    assert found.multivariate.separation.p_value < 1e-6
    assert not found.multivariate.drifted
    assert len(found.multivariate.ordinary) >= 12


def test_drift_in_one_segment_is_found_there_alone():
    live = rows(3, 100, 4, 400)
    south = np.asarray(live.frame["shop"].to_pylist()) == "south"
    found = looked(changed(live, a=live.frame["a"].to_numpy() + 1.5 * south))
    assert [f.name for f in found.findings if f.kind == "segment"] == ["shop = south"]
    assert found.segments["shop = south"].drifted == ("a",)
    assert "shop = tiny" not in found.segments


def test_labels_that_move_and_a_loss_that_grows_are_called_out_by_window_and_segment():
    live = rows(3, 100, 4, 400)
    south = np.asarray(live.frame["shop"].to_pylist()) == "south"
    late = live.when >= 102 * DAY_S
    labels = np.where(south & late, 1.0 - np.round(live.scores), live.labels)
    found = looked(changed(live, labels=labels))
    worse = {(q.window / DAY_S, q.segment) for q in found.quality if q.worse}
    assert {(102, "shop = south"), (103, "shop = south")} <= worse
    assert not [w for w in worse if w[0] < 102 or w[1] == "shop = north"]
    told = next(f for f in found.findings if f.kind == "quality" and f.name == "shop = south")
    assert "on held-out rows" in told.reason
    ones = changed(live, labels=np.ones(len(live)))
    assert [f.kind for f in looked(ones).findings if f.kind == "labels"] == ["labels"]


def test_estimated_performance_falls_when_the_model_is_unsure():
    live = rows(3, 100, 4, 400)
    unsure = changed(live, scores=0.5 + 0.02 * (live.scores - 0.5), labels=np.full(len(live), np.nan))
    found = looked(unsure)
    (finding,) = [f for f in found.findings if f.kind == "estimate"]
    assert "estimates a brier of" in finding.reason
    assert all(q.labelled.n == 0 and q.limits is None and not q.worse for q in found.quality)


def test_rows_worth_labelling_are_unlabelled_ones_the_model_is_least_sure_of():
    live = rows(3, 100, 4, 400, labels=0.5)
    found = looked(live)
    assert len(found.wanted) == 5
    scores = {i: s for i, s, y in zip(live.ids, live.scores, live.labels, strict=True) if np.isnan(y)}
    assert all(abs(scores[w.id] - 0.5) < 0.25 for w in found.wanted)
    assert [w.worth for w in found.wanted] == sorted((w.worth for w in found.wanted), reverse=True)


def test_what_cannot_be_looked_at_is_said_and_the_rest_is():
    past = Past(rows(1, 0, DAYS), rows(2, DAYS, 1, 1))
    asked = Asked(model="m", version="1", windows=(100 * DAY_S,), since=100 * DAY_S, policy=POLICY)
    found = look(asked, BINARY, COLUMNS[:0], past, rows(3, 100, 1, 300))
    assert [fault.partition(":")[0] for fault in found.faults] == [
        "performance is not estimated",
        "nothing tells windows apart",
    ]
    assert found.quality[0].reference is None
    assert found.quality[0].observed["accuracy"] > 0.5


def test_poisoned_rows_do_not_crash_a_look():
    live = rows(3, 100, 4, 300)
    n = len(live)
    poison = changed(
        live, a=np.where(np.arange(n) % 3 == 0, np.inf, np.nan), shop=np.array([f"v{i}" for i in range(n)])
    )
    found = looked(poison)
    assert [f for f in found.findings if f.kind == "multivariate"]
    assert Looked.model_validate_json(found.model_dump_json()) == found
