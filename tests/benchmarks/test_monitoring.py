"""Streams change exactly what they document, and competitors are put on one scale."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.monitoring import delay, detection, wide
from benchmarks.monitoring.detection import ALPHA, CHANGES, NO_CHANGE, ScoreScale, WindowScores
from benchmarks.monitoring.streams import COLUMNS, NUMBERS, STRINGS, Change, columns, frame
from benchmarks.serving.environments import InstallFailed


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_frame_with_a_change_changes_its_columns_and_share_of_rows(change):
    before, after = frame(1, 2_000).table(), frame(1, 2_000, change).table()
    changed = [column.name for column in COLUMNS if not before[column.name].equals(after[column.name])]
    assert changed == {"category": ["s5"], "mix": ["n0", "n1", "n2", "n3"]}.get(change.kind, ["n0"])
    same = np.array(before[changed[0]].to_pylist(), object) == np.array(after[changed[0]].to_pylist(), object)
    assert 1 - same.mean() == pytest.approx(change.share, abs=0.04)


def test_scale_by_column_with_a_noisy_column_detects_the_others():
    rng = np.random.default_rng(0)

    def scores(shift: float) -> list[tuple[dict[str, float], bool]]:
        return [({"a": float(np.exp(rng.normal(shift))), "loud": 1e300}, True) for _ in range(200)]

    quiet = scores(0.0)
    plain, by_column = ScoreScale.both(quiet)
    assert by_column.alarms(quiet).mean() == pytest.approx(ALPHA, abs=0.01)
    assert by_column.alarms(scores(5.0)).mean() > 0.9
    assert plain.alarms(scores(5.0)).mean() == 0.0


def test_first_alarm_is_the_end_of_the_first_run():
    alarms = np.array([False, True, False, True, True, True])
    assert [delay.first_alarm(alarms, n) for n in (1, 2, 3)] == [2, 5, 6]
    assert delay.first_alarm(alarms, 4) == 7


def test_detection_delays_of_two_scales_are_the_shorter():
    def score(a: float) -> tuple[dict[str, float], bool]:
        return {"a": a, "loud": 1e9}, True

    quiet = [score(float(np.exp(0.1 * i))) for i in range(10)]
    assert delay.detection_delays([*quiet, *map(score, (1.0, 1e3, 1.0, 1e3))], 10, 2, 1) == [2, 2]


def test_score_windows_of_a_peer_that_cannot_run_has_the_reason(monkeypatch):
    def refuse(*_: object) -> None:
        raise InstallFailed("no such package")

    monkeypatch.setattr(detection, "run_peer", refuse)
    assert detection.score_windows("whylogs", 50, NO_CHANGE, 2, print) == WindowScores(
        [], "could not be run: no such package"
    )


def test_score_windows_of_rayloop_detects_a_large_change(monkeypatch):
    monkeypatch.setattr(detection, "REFERENCE_ROWS", 2_000)
    changed = detection.score_windows("rayloop", 200, Change("mean", 1.0, 1.0), 2, print)
    assert changed.alarmed == 1.0
    assert {max(scores, key=scores.__getitem__) for scores, _ in changed.scores} == {"n0"}


def test_measure_of_a_wide_window_has_time_and_memory(monkeypatch):
    monkeypatch.setattr(wide, "TIMES", 2)
    monkeypatch.setattr(wide, "COLUMNS", columns(2 * NUMBERS, 2 * STRINGS))
    monkeypatch.setattr(wide, "BATCH", 500)
    monkeypatch.setattr(wide, "REFERENCE_ROWS", 500)
    costs = wide.measure(1_000)
    assert costs["row_s"] > 0
    assert costs["gib"] < 8
