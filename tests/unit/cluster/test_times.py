"""Moments as text and in microseconds."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from cluster.times import epoch_microseconds, format_utc

NEPAL = timezone(timedelta(hours=5, minutes=45))


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (0, "1970-01-01 00:00"),
        (1_719_791_999.9, "2024-06-30 23:59"),
        (datetime(2024, 7, 1, 5, 44, tzinfo=NEPAL), "2024-06-30 23:59"),
        (None, "never"),
    ],
)
def test_moment_is_formatted_in_utc_to_the_minute(at: datetime | float | None, expected: str) -> None:
    assert format_utc(at) == expected


def test_moment_takes_another_style() -> None:
    assert format_utc(1_719_791_999.9, "%d %b %H:%M:%S") == "30 Jun 23:59:59"


def test_epoch_microseconds_of_a_moment_and_of_its_seconds_agree() -> None:
    at = datetime(2013, 1, 1, 5, 0, 0, 123_457, tzinfo=UTC)
    assert epoch_microseconds(at) == epoch_microseconds(at.timestamp()) == 1_357_016_400_123_457
