"""Weekly windows during which no rollout advances. Pure."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import model_validator

from cluster.errors import RolloutError
from cluster.values import Frozen

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WEEK_TIME = re.compile(rf"({'|'.join(_DAYS)}) ([01]\d|2[0-3]):([0-5]\d)")
_DAY_MINUTES = 24 * 60


class FreezeWindow(Frozen):
    """A window that recurs every week, by local time; it may span the end of the week.

    Raises:
        RolloutError: A time or zone is not valid, or the window is empty.
    """

    start: str
    """First minute, as weekday and time: "fri 16:00"."""
    end: str
    """First minute after the window, such as "mon 08:00"."""
    zone: str = "UTC"
    """Time zone as in the IANA database, such as "Europe/Berlin"."""

    @model_validator(mode="after")
    def _is_valid(self) -> Self:
        if _week_minute(self.start) == _week_minute(self.end):
            raise RolloutError("rollout.freeze_window_empty", start=self.start, end=self.end)
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise RolloutError("rollout.unknown_time_zone", zone=self.zone) from error
        return self

    def contains(self, now: float) -> bool:
        """Whether a time is in the window; its start is, its end is not.

        Args:
            now: Seconds since the epoch.
        """
        local = datetime.fromtimestamp(now, ZoneInfo(self.zone))
        minute = local.weekday() * _DAY_MINUTES + local.hour * 60 + local.minute
        start, end = _week_minute(self.start), _week_minute(self.end)
        return start <= minute < end if start < end else minute >= start or minute < end

    def __str__(self) -> str:
        return f"{self.start} until {self.end} {self.zone}"


def _week_minute(text: str) -> int:
    """Minute of the week."""
    match = _WEEK_TIME.fullmatch(text)
    if match is None:
        raise RolloutError("rollout.invalid_freeze_time", time=text)
    day, hour, minute = match.groups()
    return _DAYS.index(day) * _DAY_MINUTES + int(hour) * 60 + int(minute)
