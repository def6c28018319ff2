"""Freeze windows by local time, and the refusal of invalid ones."""

from datetime import UTC, datetime

import pytest

from cluster.errors import RolloutError
from deployments.freeze_windows import FreezeWindow
from tests.factories.errors import raises


@pytest.mark.parametrize(
    ("start", "end", "zone", "inside", "outside"),
    [
        ("fri 16:00", "mon 08:00", "Europe/Berlin", "2024-05-03T14:00", "2024-05-03T13:59"),
        ("fri 16:00", "mon 08:00", "Europe/Berlin", "2024-05-06T05:59", "2024-05-06T06:00"),
        # The same window by the same clocks, in winter.
        ("fri 16:00", "mon 08:00", "Europe/Berlin", "2024-01-05T15:00", "2024-01-05T14:59"),
        ("tue 09:00", "tue 10:30", "UTC", "2024-05-07T10:29", "2024-05-07T10:30"),
    ],
)
def test_freeze_window_follows_the_local_time_of_its_zone(
    start: str, end: str, zone: str, inside: str, outside: str
) -> None:
    window = FreezeWindow(start=start, end=end, zone=zone)
    moments = [datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp() for at in (inside, outside)]
    assert [window.contains(moment) for moment in moments] == [True, False]


@pytest.mark.parametrize(
    ("window", "code", "fields"),
    [
        ({"start": "friday", "end": "mon 08:00"}, "rollout.invalid_freeze_time", {"time": "friday"}),
        ({"start": "fri 16:00", "end": "fri 16:00"}, "rollout.freeze_window_empty", {"start": "fri 16:00"}),
        (
            {"start": "fri 16:00", "end": "mon 08:00", "zone": "Mars/Olympus"},
            "rollout.unknown_time_zone",
            {"zone": "Mars/Olympus"},
        ),
    ],
)
def test_freeze_window_with_invalid_values_is_refused(
    window: dict[str, str], code: str, fields: dict[str, str]
) -> None:
    with raises(RolloutError, code, **fields):
        FreezeWindow(**window)
