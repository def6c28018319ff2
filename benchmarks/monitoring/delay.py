"""Detection delay at an equal false alarm rate: two streams of real rows.

flights: days of October to December against those of January to August. The day on which the season changes is unknown,
so days are counted from October 1. An alarm is two days in a row, as one in twenty single days is a false alarm.

digits: windows of images in which the share of one class grows from the first window on. An alarm is one window.

Thresholds are those of detection.py: from each competitor's own unchanged windows, here the days of September or
unchanged images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import numpy as np
from sklearn.datasets import load_digits

from benchmarks.monitoring import flights
from benchmarks.monitoring.detection import OURS, Progress, Scores, ScoreScale, score_frames
from benchmarks.monitoring.programs import NAMES, ProgramFailed
from benchmarks.monitoring.streams import Frame
from benchmarks.results import Row, Target, row
from benchmarks.serving.environments import InstallFailed

STREAMS, WINDOWS, WINDOW_ROWS, UNCHANGED = 24, 20, 200, 40
FEWER = {"evidently": 6}
"""Streams, the first of all, of a peer that takes half an hour for more."""
CLASS = 8
GROWTH = 0.02
"""How much the share of that class grows from window to window; it begins with a tenth."""
_IN_A_ROW = 2
_EARLIER = Target(of="ratio", sign="≤", limit=1.0)

Delays = list[int]
"""Windows until the alarm, for each stream; one more than the stream has when there is none."""


def rows(progress: Progress) -> Iterator[Row]:
    yield from _compared("days from 1 October to an alarm, flights", _flights, progress)
    yield from _compared("windows to an alarm, digits of which one class grows", _digits, progress)


def _compared(work: str, delays: Callable[[str, Progress], Delays], progress: Progress) -> Iterator[Row]:
    delays_by_name: dict[str, Delays] = {}
    why: dict[str, str] = {}
    for name in (*OURS, *NAMES):
        progress(f"{name}: {work}")
        try:
            delays_by_name[name] = delays(name, progress)
        except (ProgramFailed, InstallFailed) as error:
            why[name] = f"could not be run: {error}"
    for name, policy in OURS.items():
        for peer in NAMES:
            theirs = float(np.mean(delays_by_name[peer])) if peer in delays_by_name else None
            ours = delays_by_name[name][: len(delays_by_name.get(peer, ())) or None]
            note = why.get(peer) or f"rayloop: {_format_values(ours)}; the peer: {_format_values(delays_by_name[peer])}"
            label = f"{work}, test={policy.test!r}"
            yield row(label, "windows, mean", float(np.mean(ours)), peer, theirs, _EARLIER, note)


def _format_values(delays: Delays) -> str:
    return ", ".join(map(str, delays))


def _flights(name: str, progress: Progress) -> Delays:
    january, september, october, end = (datetime(2013, *day, tzinfo=UTC) for day in ((1, 1), (9, 1), (10, 1), (12, 31)))
    reference = flights.days(january, september)
    ordinary, changed = flights.days(september, october), flights.days(october, end)
    scores = score_frames(name, reference, [*ordinary, *changed], progress)
    return detection_delays(scores, len(ordinary), 1, _IN_A_ROW)


def _digits(name: str, progress: Progress) -> Delays:
    pixels, classes = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    known, new = np.array_split(rng.permutation(len(pixels)), 2)
    shares = [None] * UNCHANGED + [0.1 + GROWTH * i for i in range(1, WINDOWS + 1)] * STREAMS
    windows = [_frame(_sample_rows(rng, pixels[new], classes[new], share)) for share in shares]
    streams = FEWER.get(name, STREAMS)
    scores = score_frames(name, [_frame(pixels[known])], windows[: UNCHANGED + streams * WINDOWS], progress)
    return detection_delays(scores, UNCHANGED, streams, 1)


def _sample_rows(rng: np.random.Generator, pixels: np.ndarray, classes: np.ndarray, share: float | None) -> np.ndarray:
    """Sample a window of images; with a ``share``, that share is of CLASS."""
    odds = np.ones(len(pixels))
    if share is not None:
        odds = np.where(classes == CLASS, share / (classes == CLASS).sum(), (1 - share) / (classes != CLASS).sum())
    return pixels[rng.choice(len(pixels), WINDOW_ROWS, p=odds / odds.sum())]


def _frame(pixels: np.ndarray) -> Frame:
    return Frame(pixels.astype(np.float64), np.empty((len(pixels), 0), np.int16))


def detection_delays(scores: Scores, unchanged: int, streams: int, in_a_row: int) -> Delays:
    """Return the delays under the faster scale; the first scores are those of unchanged windows."""
    scales = ScoreScale.both(scores[:unchanged])
    alarms = [np.array_split(scale.alarms(scores[unchanged:]), streams) for scale in scales]
    return min(([first_alarm(stream, in_a_row) for stream in by_stream] for by_stream in alarms), key=sum)


def first_alarm(alarms: np.ndarray, in_a_row: int) -> int:
    """Return the window, counted from 1, that completes the first run of ``in_a_row`` alarms."""
    runs = np.convolve(alarms.astype(int), np.ones(in_a_row, int))[: len(alarms)]
    hits = np.flatnonzero(runs == in_a_row)
    return int(hits[0]) + 1 if hits.size else len(alarms) + 1
