"""The status at night: what was done about an alarm, and how that ended."""

from typing import Any

import pytest

from cluster import jobs
from cluster.settings import Settings, load_settings
from rayloop.cli import status


def entry(action: str, outcome: str, reason: str, failed: bool = False) -> dict[str, Any]:
    return {"action": action, "outcome": outcome, "failed": failed, "alarm": {"kind": "drift", "reason": reason}}


@pytest.fixture
def stands(monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(settings: Settings, job: str) -> tuple[str, str]:
        if job == "unknown":
            raise RuntimeError("Request failed with status code 404")
        return "FAILED", "the training frame has no train rows"

    monkeypatch.setattr(jobs, "outcome", outcome)


@pytest.mark.usefixtures("stands")
def test_an_alarm_tells_how_the_job_ended_that_it_submitted() -> None:
    settings = load_settings()
    told = status._alarm(settings, entry("retrain", "retrain-m-v1", "price moved"))
    assert told == "drift: retrain retrain-m-v1 (failed): price moved"
    assert status._alarm(settings, entry("retrain", "unknown", "price moved")) == "drift: retrain unknown: price moved"
    assert (
        status._alarm(settings, entry("held", "cooling down", "price moved")) == "drift: held cooling down: price moved"
    )
    # It was not submitted: what stands there is why.
    assert status._alarm(settings, entry("retrain", "OSError: no", "x", failed=True)) == "drift: retrain OSError: no: x"


def test_the_last_alarm_that_acted_is_shown_however_many_came_after_it() -> None:
    alarms = [
        entry("retrain", "a", "1"),
        entry("rollback", "b", "2"),
        *(entry("held", "", str(i)) for i in range(3, 9)),
    ]
    assert [one["alarm"]["reason"] for one in status._newest(alarms)] == ["2", "6", "7", "8"]
    assert [one["alarm"]["reason"] for one in status._newest(alarms[:2])] == ["1", "2"]


def test_a_window_without_a_verdict_says_why() -> None:
    assert status._windows({"windows": 3, "last_window": {"judged": True, "note": ""}}) == "3 windows closed"
    told = status._windows({"windows": 4, "last_window": {"judged": False, "note": "9 rows, 200 are needed"}})
    assert told == "4 windows closed (no verdict on the last: 9 rows, 200 are needed)"
    assert status._windows({"windows": 0, "last_window": None}) == "0 windows closed"
