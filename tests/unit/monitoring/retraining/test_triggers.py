"""Schedules in local time, also where the clocks change; what a declaration refuses."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ProjectError
from monitoring.retraining.triggers import MOST_COUNTED, Cron, OnLabels, OnRows, RetrainPolicy
from tests.factories.errors import raises

ZONES = ("UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "America/St_Johns", "Asia/Kolkata")
DAY_S = 86_400.0


def at(text: str, zone: str = "Europe/Paris", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def runs(cron: Cron, since: float, until: float) -> list[datetime]:
    found, now = [], since
    while (run := cron.next_run(now)) is not None and run.timestamp() <= until:
        found.append(run)
        now = run.timestamp()
    return found


@pytest.mark.parametrize(
    ("expression", "local", "utc_hours"),
    [
        # The hour from two to three does not exist on 29 March 2026 in Paris, and comes twice on 25 October.
        ("30 2 * * *", "2026-03-29", [1.0]),
        ("0 3 * * *", "2026-03-29", [1.0]),
        ("30 2 * * *", "2026-10-25", [0.5]),
        ("0,30 2,3 * * *", "2026-03-29", [1.0, 1.5]),
        ("0 * * * *", "2026-10-25", [float(hour) for hour in range(-2, 23)]),
    ],
)
def test_schedule_follows_the_clocks_of_its_zone(expression: str, local: str, utc_hours: list[float]) -> None:
    start = at(f"{local}T00:00")
    cron = Cron(expression=expression, timezone="Europe/Paris")
    midnight = datetime.combine(date.fromisoformat(local), datetime.min.time(), UTC).timestamp()
    end = at(f"{date.fromisoformat(local) + timedelta(days=1)}T00:00")
    assert [(run.timestamp() - midnight) / 3600 for run in runs(cron, start - 1, end - 1)] == utc_hours


def test_run_of_the_first_of_two_hours_does_not_come_in_the_second() -> None:
    cron = Cron(expression="30 2 * * *", timezone="Europe/Paris")
    second = at("2026-10-25T02:10", fold=1)
    assert cron.occurrences(second, second + 3_600).total == 0
    assert cron.next_run(second).date() == date(2026, 10, 26)  # type: ignore[union-attr]


@given(
    zone=st.sampled_from(ZONES),
    hour=st.integers(0, 23),
    minute=st.integers(0, 59),
    start=st.integers(
        int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()), int(datetime(2028, 1, 1, tzinfo=UTC).timestamp())
    ),
    days=st.integers(1, 40),
)
def test_daily_schedule_comes_once_on_each_local_day(zone: str, hour: int, minute: int, start: int, days: int) -> None:
    cron = Cron(expression=f"{minute} {hour} * * *", timezone=zone)
    found = runs(cron, float(start), start + days * DAY_S)
    local = [run.date() for run in found]
    assert local == sorted(set(local))
    assert all((after - before).days == 1 for before, after in itertools.pairwise(local))
    assert abs(len(found) - days) <= 1
    # Later than declared only where the declared time does not exist.
    assert all((run.hour, run.minute) >= (hour, minute) for run in found)


@given(
    expression=st.sampled_from(
        ("*/7 * * * *", "15 */3 * * *", "30 2 * * *", "0 3 * * 1", "0 2 1 * *", "5 1 * 3 sun#5")
    ),
    zone=st.sampled_from(ZONES),
    start=st.integers(1_700_000_000, 1_800_000_000),
    cuts=st.lists(st.integers(0, 30 * 86_400), max_size=6),
)
def test_spans_that_follow_each_other_hold_each_run_once(
    expression: str, zone: str, start: int, cuts: list[int]
) -> None:
    cron = Cron(expression=expression, timezone=zone)
    ends = [start + cut for cut in sorted({0, *cuts, 2 * 86_400})]
    counts = [cron.occurrences(since, until).total for since, until in itertools.pairwise(ends)]
    if max(counts) < MOST_COUNTED:
        assert sum(counts) == len(runs(cron, start, ends[-1]))


@pytest.mark.parametrize("expression", ["* * * * *", "0 * * 1 *"])
def test_newest_run_is_known_after_more_runs_than_are_counted(expression: str) -> None:
    cron = Cron(expression=expression)
    until = at("2026-03-02T10:30:30", "UTC")
    found = cron.occurrences(at("2020-03-01T00:00", "UTC"), until)
    assert found.total == MOST_COUNTED
    expected = "2026-03-02T10:30" if expression == "* * * * *" else "2026-01-31T23:00"
    assert found.newest == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "expression", ["", "0 3 * *", "0 0 3 * * *", "61 3 * * *", "0 3 30 2 *", "x 3 * * *", "@daily"]
)
def test_expression_that_is_no_schedule_is_refused(expression: str) -> None:
    with raises(ProjectError, "project.invalid_cron", expression=expression):
        Cron(expression=expression)


def test_unknown_zone_is_refused() -> None:
    with raises(ProjectError, "project.unknown_time_zone", zone="Europe/Atlantis"):
        Cron(expression="0 3 * * *", timezone="Europe/Atlantis")


def test_trigger_that_is_declared_twice_is_refused() -> None:
    with raises(ProjectError, "project.trigger_repeated", triggers=["5 new labels"]):
        RetrainPolicy(on=(OnLabels(labels=5), OnRows(rows=5), OnLabels(labels=5)))


def test_policy_survives_its_stored_form() -> None:
    policy = RetrainPolicy(
        on=(Cron(expression="0 3 * * 1", timezone="Europe/Paris", missed="skip"), OnRows(rows=7), OnLabels(labels=5)),
        max_runs=2,
    )
    assert RetrainPolicy.model_validate_json(policy.model_dump_json()) == policy
