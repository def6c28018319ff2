"""Which dates of a time split leave rows in all its parts, given when rows happened and when their labels were known.

Later dates leave more rows before them: the latest ``test_from`` with enough test rows allows the latest
``validate_from`` with enough validation rows, and this one leaves the most training rows. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np

from cluster.errors import DataError
from cluster.times import epoch_microseconds
from features.offline.purge import Counts
from features.split import PARTS, TimeSplit

_TRAIN_SHARES = (0.2, 0.0)
_SHARES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.0)
"""Of the rows that training, or a held-out part, has with the declared dates, or has by date where all of them are
late: what new dates should leave, at least one row. The first that work are chosen."""
_FEW = 0.01
"""Share of all rows that a part should have if it has none by date."""
_HOLDOUT_ROWS = 20_000
"""Rows on which each length of a holdout is tried."""
_DAY_US = 86_400_000_000
_UNITS_US = (_DAY_US, 3_600_000_000, 60_000_000, 1_000_000)
_SUGGESTED = (0.7, 0.85)
"""Quantiles of the rows' times at which validation and test begin."""


class RowTimes(NamedTuple):
    """Times of rows and of their labels, int64 [n], microseconds since the epoch. A row stands for ``weight`` rows."""

    as_of: np.ndarray
    known_at: np.ndarray
    weight: int = 1

    @property
    def period(self) -> tuple[datetime, datetime]:
        """Times of the first and of the last row."""
        return _moment(int(self.as_of.min())), _moment(int(self.as_of.max()))

    @property
    def delay(self) -> timedelta:
        """The median time that a label takes."""
        return self.delay_at(0.5)

    def delay_at(self, share: float) -> timedelta:
        """Return the time within which this share of the labels is known."""
        return timedelta(microseconds=float(np.quantile(self.known_at - self.as_of, share)))

    def usable(self, start: int, end: int) -> np.ndarray:
        """Return the times of the rows in [start, end) whose label was known by the end."""
        return self.as_of[(self.as_of >= start) & (self.as_of < end) & (self.known_at <= end)]

    def count_between(self, dates: Sequence[int]) -> list[int]:
        """Return the usable rows between each date and the next."""
        return [len(self.usable(start, end)) for start, end in pairwise(dates)]

    def thinned(self, rows: int) -> RowTimes:
        """Return evenly spaced rows, about ``rows`` of them."""
        step = max(1, len(self.as_of) // rows)
        return RowTimes(self.as_of[::step], self.known_at[::step], self.weight * step)


class WorkingDates(NamedTuple):
    """Dates that leave rows in every part, and how many."""

    validate_from: datetime
    test_from: datetime
    rows: dict[str, int]

    def __str__(self) -> str:
        counts = ", ".join(f"{self.rows[part]:,} {part}" for part in PARTS)
        dates = f"validate_from {_format(self.validate_from)} and test_from {_format(self.test_from)}"
        return f"{dates}, which leave {counts} rows"


def working_dates(split: TimeSplit, times: RowTimes) -> WorkingDates | None:
    """Return the latest dates between the split's start and end that leave rows in every part; None: no dates do.

    A date of the split stays where it leaves enough rows. Whole days (UTC) are preferred.
    """
    start, *declared, end = _dates(split)
    before = _rows_before(times, (start, *declared, end))
    for train, share, latest, unit in product(_TRAIN_SHARES, _SHARES, (declared, [end, end]), (_DAY_US, 1)):
        shares = zip((train, share, share), before, strict=True)
        wanted = [max(1, math.ceil(least * rows)) for least, rows in shares]
        if dates := _latest_dates(times, (start, *latest, end), wanted, unit):
            rows = dict(zip(PARTS, (count * times.weight for count in times.count_between(dates)), strict=True))
            return WorkingDates(_moment(dates[1]), _moment(dates[2]), rows)
    return None


def suggest_split(times: RowTimes) -> TimeSplit | None:
    """Return a split for rows that have none yet: about 70% train, 15% validate, 15% test; None: no dates do.

    Whole days (UTC) are preferred, then whole hours, minutes and seconds; labels of late rows still are purged.
    """
    first, last = int(times.as_of.min()), int(max(times.as_of.max(), times.known_at.max()))
    quantiles = [int(np.quantile(times.as_of, share)) for share in _SUGGESTED]
    for unit in _UNITS_US:
        bounds = [*(date // unit * unit for date in (first, *quantiles)), (last // unit + 1) * unit]
        if not all(before < after for before, after in pairwise(bounds)):
            continue
        start, validate_from, test_from, end = map(_moment, bounds)
        split = TimeSplit(start=start, validate_from=validate_from, test_from=test_from, end=end)
        if min(times.count_between(bounds)) >= max(1, _FEW * len(times.as_of)):
            return split
        if (dates_left := working_dates(split, times)) is not None:
            return split.model_copy(
                update={"validate_from": dates_left.validate_from, "test_from": dates_left.test_from}
            )
    return None


def working_holdout(split: TimeSplit, times: RowTimes) -> timedelta | None:
    """Return the fewest whole days of a retrain's ``holdout`` at the split's end that leave rows in every part.

    Each part should have a hundredth of all rows. None: no number of days does.
    """
    start, *_, end = _dates(split)
    thin = times.thinned(_HOLDOUT_ROWS)
    for holdout in range(_DAY_US, (end - start) // 2, _DAY_US):
        if min(thin.count_between((start, end - 2 * holdout, end - holdout, end))) >= max(1, _FEW * len(thin.as_of)):
            return timedelta(microseconds=holdout)
    return None


def require_rows(split: TimeSplit, stages: tuple[Counts, Counts, Counts], load_times: Callable[[], RowTimes]) -> None:
    """Refuse a split that leaves a part without rows.

    Args:
        split: The split.
        stages: Rows by part: by date, of known labels, and those that are left.
        load_times: Returns the times of the rows of all parts.

    Raises:
        DataError: A part has no rows left. Where labels are late, it names the dates that would work.
    """
    dated, known, left = stages
    for part in (part for part in PARTS if not left[part]):
        if known[part]:
            raise DataError("data.split_groups_purged", part=part, rows=known[part], group=", ".join(split.group))
        raise _late_labels(split, part, dated[part], load_times())


def _late_labels(split: TimeSplit, part: str, rows: int, times: RowTimes) -> DataError:
    """Return the error for a part without rows of known labels, with the dates that would work."""
    dates, holdout = working_dates(split, times), working_holdout(split, times)
    remedy = f"{dates}" if dates else "another start or end: no dates between these leave rows in every part"
    if holdout:
        remedy += f"; for a retrain until {_format(split.end)}, Retrain(holdout=timedelta(days={holdout.days}))"
    return DataError(
        "data.split_purged",
        part=part,
        rows=f"{rows:,}",
        until=_format(split.bounds[part][1]),
        delay=f"{times.delay / timedelta(days=1):.3g}",
        remedy=remedy,
        validate_from=dates.validate_from.isoformat() if dates else "",
        test_from=dates.test_from.isoformat() if dates else "",
        holdout_days=holdout.days if holdout else None,
    )


def _rows_before(times: RowTimes, dates: Sequence[int]) -> list[float]:
    """Return the rows of each part with the declared dates."""
    by_date = [int(np.sum((times.as_of >= start) & (times.as_of < end))) for start, end in pairwise(dates)]
    usable = times.count_between(dates)
    return [rows or dated or _FEW * len(times.as_of) for rows, dated in zip(usable, by_date, strict=True)]


def _latest_dates(times: RowTimes, latest: Sequence[int], wanted: Sequence[int], unit: int) -> tuple[int, ...]:
    """Return start, validate_from, test_from and end with the ``wanted`` rows, no date later than in ``latest``."""
    start, validate_from, test_from, end = latest
    test_from = _latest_start(times.usable(start, end), wanted[2], test_from, unit)
    validate_from = _latest_start(times.usable(start, test_from), wanted[1], validate_from, unit)
    dates = (start, validate_from, test_from, end)
    enough = all(rows >= least for rows, least in zip(times.count_between(dates), wanted, strict=True))
    return dates if enough and start < validate_from < test_from < end else ()


def _latest_start(at: np.ndarray, rows: int, latest: int, unit: int) -> int:
    """Return the last multiple of ``unit``, or ``latest``, from which on there are so many times ``at``; 0: none."""
    if len(at) < rows:
        return 0
    place = int(np.partition(at, len(at) - rows)[len(at) - rows])
    return latest if latest <= place else place // unit * unit


def _dates(split: TimeSplit) -> list[int]:
    return [epoch_microseconds(date) for date in (split.start, split.validate_from, split.test_from, split.end)]


def _moment(date: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=date)


def _format(date: datetime) -> str:
    return f"{date:%Y-%m-%d}" if not epoch_microseconds(date) % _DAY_US else date.isoformat()
