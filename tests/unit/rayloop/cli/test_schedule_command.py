"""`rayloop schedule` without a cluster: what it prints of a status, and calls that are refused."""

from __future__ import annotations

import pytest

from cluster.errors import RayloopError
from monitoring.retraining.decision import RetrainEntry
from monitoring.retraining.retrain_scheduler import ScheduleStatus, TriggerStatus
from rayloop.cli.app import app
from rayloop.cli.schedule_command import describe_schedule
from tests.factories.errors import raises

RUN = RetrainEntry(
    at=1_773_489_600.0, event="run", trigger="5 new labels", reason="7 new labels", job="retrain-1",
    outcome="succeeded", minutes=2.5,
)  # fmt: skip
MISSED = RetrainEntry(at=1_773_489_600.0, event="missed", trigger="schedule", reason="2 runs while paused")
STATUS = ScheduleStatus(
    model="shop",
    triggers=(
        TriggerStatus(trigger="schedule", next="2026-03-16 03:00 CET", missed=MISSED),
        TriggerStatus(trigger="5 new labels", progress="2 of 5", last=RUN),
    ),
    last=RUN,
    paused=None,
    runs_left=1,
    minutes_left=27.5,
    period_days=7.0,
    journal=(RUN,),
)


def test_schedule_shows_triggers_budget_missed_runs_and_the_last_run() -> None:
    assert list(describe_schedule(STATUS)) == [
        "shop: 1 run and 27.5 minutes left of 7 days' budget",
        "  schedule: next 2026-03-16 03:00 CET",
        "    missed 2026-03-14 12:00 UTC: 2 runs while paused",
        "  5 new labels: 2 of 5",
        "    last run 2026-03-14 12:00 UTC, succeeded",
        "  last run: 2026-03-14 12:00 UTC, retrain-1 succeeded after 2.5 min, because: 7 new labels",
    ]


def test_paused_model_shows_who_paused_it() -> None:
    pause = RetrainEntry(at=1_773_489_600.0, event="pause", by="anna", reason="audit")
    paused = STATUS.model_copy(update={"paused": pause, "triggers": (), "last": None})
    assert list(describe_schedule(paused)) == [
        "shop: paused by anna at 2026-03-14 12:00 UTC: audit",
        "  no trigger is declared; alarms and `rayloop retrain` retrain it",
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["shop", "--pause"],
        ["--pause", "--by", "anna"],
        ["shop", "--pause", "--resume", "--by", "anna"],
        ["shop", "--resume", "--by", " "],
        ["shop", "--resume", "--by", "anna", "--json"],
    ],
)
def test_change_without_a_model_or_a_name_is_refused(words: list[str]) -> None:
    with raises(RayloopError, "rayloop.schedule_options"):
        app(["schedule", *words], standalone_mode=False)
