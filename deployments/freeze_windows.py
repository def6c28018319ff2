"""Weekly windows during which no rollout advances. Pure; the time zones' rules are data."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import model_validator

from cluster.errors import RolloutError
from cluster.values import Frozen

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MOMENT = re.compile(rf"({'|'.join(_DAYS)}) ([01]\d|2[0-3]):([0-5]\d)")
_DAY_MINUTES = 24 * 60


class FreezeWindow(Frozen):
    """From ``start`` until ``end``, such as "fri 16:00" and "mon 08:00", every week, by the clocks of ``zone``.

    It may run over the end of the week. Raises RolloutError for a moment or a zone (as in the IANA database, such as
    "Europe/Berlin") that there is not.
    """

    start: str
    end: str
    zone: str = "UTC"

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        if _minute(self.start) == _minute(self.end):
            raise RolloutError(f"the freeze from {self.start} until {self.end} is empty", "let it end later")
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise RolloutError(f"no time zone {self.zone!r}", 'name one such as "Europe/Berlin"') from error
        return self

    def contains(self, now: float) -> bool:
        """Whether ``now``, seconds since the epoch, lies in the window: its start does, its end does not."""
        local = datetime.fromtimestamp(now, ZoneInfo(self.zone))
        minute = local.weekday() * _DAY_MINUTES + local.hour * 60 + local.minute
        start, end = _minute(self.start), _minute(self.end)
        return start <= minute < end if start < end else minute >= start or minute < end

    def __str__(self) -> str:
        return f"{self.start} until {self.end} {self.zone}"


def _minute(moment: str) -> int:
    """Minute of the week."""
    found = _MOMENT.fullmatch(moment)
    if found is None:
        raise RolloutError(f"{moment!r} is no moment of a week", 'write it as "fri 16:00"')
    day, hour, minute = found.groups()
    return _DAYS.index(day) * _DAY_MINUTES + int(hour) * 60 + int(minute)
