"""Live windows: which are closed alone, which with the windows before them."""

from __future__ import annotations

import pytest

from features.profiles.profile import Profile
from monitoring.detection.windows import LiveWindows
from monitoring.drift_policy import DAY_S, DriftPolicy
from tests.factories.monitoring import streams


def observed(days: int, rows: int) -> LiveWindows:
    windows = LiveWindows()
    windows.follow("1", streams.COLUMNS)
    for start, profile in streams.windows(7, days, rows).items():
        windows.observe("1", start, profile)
    return windows


def starts(windows: LiveWindows) -> list[float]:
    return sorted(windows.profiles["1"])


@pytest.mark.parametrize(("min_rows", "run"), [(50, 3), (51, 1)])
def test_window_with_too_few_rows_is_a_run_by_itself_and_dropped(min_rows: int, run: int) -> None:
    windows = observed(4, 50)
    days = starts(windows)
    closed, merged = windows.close("1", days[-1], DriftPolicy(min_rows=min_rows, span=3))
    assert closed == tuple(days[-run:])
    assert merged.rows == 50 * run
    assert (days[-1] in starts(windows)) == (run == 3)


def test_run_drops_only_windows_that_no_later_run_needs() -> None:
    windows = observed(5, 50)
    days = starts(windows)
    windows.close("1", days[3], DriftPolicy(min_rows=1, span=2))
    assert starts(windows) == days[2:]
    assert windows.closed_until == days[3]


def test_run_by_count_is_all_windows_until_it_is_full() -> None:
    policy = DriftPolicy(min_rows=1000, span=1, window_rows=100)
    windows = observed(3, 50)
    days = starts(windows)
    assert windows.close("1", days[0], policy)[0] == (days[0],)
    closed, merged = windows.close("1", days[1], policy)
    assert (closed, merged.rows) == ((days[0], days[1]), 100)
    assert starts(windows) == [days[2]]


def test_window_closes_once_a_later_one_is_full() -> None:
    windows, policy = observed(3, 50), DriftPolicy(min_rows=50, window_s=DAY_S)
    days = starts(windows)
    assert windows.closable("1", policy) == days[:2]
    assert windows.closable("1", policy.model_copy(update={"min_rows": 51})) == []
    assert windows.closable("1", policy.model_copy(update={"lateness_s": 1.0})) == days[:1]
    windows.close("1", days[0], policy)
    assert windows.closable("1", policy) == days[1:2]
    assert isinstance(windows.profiles["1"][days[0]], Profile)
