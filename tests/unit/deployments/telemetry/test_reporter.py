"""Live profiles of predictions, by window of event time."""

from datetime import UTC, datetime, timedelta

import pytest

from deployments.telemetry.reporter import window_profiles
from features.definitions import Column
from tests.factories.deployments.predictions import feature_rows, prediction_batch

DAY_US = 86_400_000_000
COLUMNS = (Column(name="distance", kind="number"),)


def test_window_profiles_group_by_event_time() -> None:
    batches = [
        prediction_batch("a", rows=3, frame=feature_rows(3, 0)),
        prediction_batch("b", rows=2, frame=feature_rows(2, DAY_US + 5)),
    ]
    by_window = window_profiles(batches, COLUMNS, 86400.0)
    assert {start: profile.rows for start, profile in by_window.items()} == {0.0: 3, 86400.0: 2}


def test_window_profiles_before_1970_start_before_their_rows() -> None:
    assert list(window_profiles([prediction_batch("a", frame=feature_rows(1, -1))], COLUMNS, 86400.0)) == [-86400.0]


@pytest.mark.parametrize("year", [1, 9999])
def test_window_profiles_with_extreme_times_keep_the_other_rows(year: int) -> None:
    at_us = int((datetime(year, 1, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
    batches = [
        prediction_batch("a", rows=3, frame=feature_rows(3, 0)),
        prediction_batch("b", frame=feature_rows(1, at_us)),
    ]
    by_window = window_profiles(batches, COLUMNS, 86400.0)
    assert {start: profile.rows for start, profile in by_window.items()} == {0.0: 3, at_us / 1e6: 1}
