"""Trials in MLflow: nested, each logged once, even if the driver restarts."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from cluster.registry import Registry
from cluster.settings import Settings
from rayloop.stages.tune import TrialRunLogger
from trainers.tuning.trial import Trial

pytestmark = pytest.mark.long

TRIALS = [
    Trial(
        number=1, parameters={"lr": 0.1, "hidden": (8,)}, metric=0.8, epochs=3, curve=(0.6, 0.7, 0.8), status="finished"
    ),
    Trial(number=2, parameters={"lr": 0.2, "hidden": (4,)}, status="failed", error="DataError: no"),
    Trial(
        number=3,
        parameters={"lr": 0.3, "hidden": (8,)},
        metric=0.7,
        epochs=5,
        curve=(0.65, 0.7),
        parent=1,
        status="finished",
    ),
]


def test_trial_logger_logs_each_trial_as_nested_run_with_its_curve(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    registry, client = Registry(settings), MlflowClient(tracking_uri=settings.mlflow_uri)
    with registry.run("p", "search", key="k") as parent:
        nested = TrialRunLogger(registry, "p", parent, "auc", set())
        for trial in [*TRIALS, TRIALS[0]]:
            nested(trial)
    assert registry.child_run_names("p", parent) == {"trial 1", "trial 2", "trial 3"}
    experiment = client.get_experiment_by_name("p").experiment_id
    runs = client.search_runs(
        [experiment], f"tags.`mlflow.parentRunId` = '{parent.id}'", order_by=["attributes.start_time"]
    )
    assert [run.info.status for run in runs] == ["FINISHED", "FAILED", "FINISHED"]
    assert runs[0].data.params == {"lr": "0.1", "hidden": "(8,)", "seed": "0"}
    assert runs[0].data.metrics["auc"] == 0.8
    assert "auc" not in runs[1].data.metrics
    assert runs[1].data.tags["rayloop.error"] == "DataError: no"
    assert runs[2].data.tags["rayloop.from"] == "trial 1"
    course = client.get_metric_history(runs[2].info.run_id, "best_auc")
    assert {one.step: one.value for one in course} == {4: 0.65, 5: 0.7}


def test_resumed_search_has_the_same_run_and_logs_each_trial_once(tmp_path: Path) -> None:
    registry = Registry(Settings(home=tmp_path))
    with registry.run("p", "search", key="k") as first:
        TrialRunLogger(registry, "p", first, "auc", set())(TRIALS[0])
    with registry.run("p", "search", key="other", resume=True) as other:
        assert other.id != first.id
    with registry.run("p", "search", key="k", resume=True) as again:
        assert again.id == first.id
        nested = TrialRunLogger(registry, "p", again, "auc", registry.child_run_names("p", again))
        for trial in TRIALS:
            nested(trial)
    assert registry.child_run_names("p", again) == {"trial 1", "trial 2", "trial 3"}
    with registry.run("p", "search", key="k") as new:
        assert new.id != first.id


def test_run_of_a_killed_driver_is_marked_killed(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    registry, client = Registry(settings), MlflowClient(tracking_uri=settings.mlflow_uri)
    runs: dict[str, str] = {}
    for key in ("k", "other"):
        with registry.run("p", "trained", key=key) as run:
            runs[key] = run.id
        # As a killed driver leaves it.
        client.update_run(runs[key], status="RUNNING")
    with registry.run("p", "trained", key="k") as new:
        assert client.get_run(runs["k"]).info.status == "KILLED"
        assert [client.get_run(run).info.status for run in (runs["other"], new.id)] == ["RUNNING", "RUNNING"]
    assert client.get_run(new.id).info.status == "FINISHED"
