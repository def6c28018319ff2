"""Features of many entities at their times, from online states (features/online/state_codec.py). Pure.

A few array operations look up all views of a feature set together. A *point* is a time at which a view is evaluated:
that of the request, or the start of a window before it. A window is the range between two rows of a state: differences
of running words give count, sum, mean and std; min, max and distinct read the rows in between.

row_lookup.py does the same for single rows: an array operation costs as much as ten operations on numbers, and one
implementation for both would slow down requests of one row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from features.definitions import FeatureView
from features.online.state_codec import HEAD_WORDS, NULL_TEXT, WORD_BYTES, StateLayout, concat_states, lookup_too_old

_N, _CUT, _PEAK, _ = range(HEAD_WORDS)
# Below it, every integer in the formula of the variance fits into 63 bits.
_EXACT_LIMIT = 2.0**61


class LookupResult(NamedTuple):
    """Features of all views."""

    numbers: np.ndarray
    """float64 [number and time features, rows], NaN for missing."""
    texts: list[list[str | None]]
    """By category feature, then by row."""


class BatchLookup:
    """Looks up the features of several views; numbers, with times, and texts are in the order of the views' columns."""

    def __init__(self, views: Sequence[FeatureView]) -> None:
        self.layouts = [StateLayout(view) for view in views]
        self.number_columns = [c.name for view in views for c in view.columns if c.kind != "category"]
        self.text_columns = [c.name for view in views for c in view.columns if c.kind == "category"]
        self._at = {name: i for i, name in enumerate(self.number_columns)}
        self._plan_points(views)
        self._plan_windows(views)
        self._plan_latest(views)

    def _plan_points(self, views: Sequence[FeatureView]) -> None:
        points = {
            (v, back): None for v, view in enumerate(views) for back in (0, *(a.window_us for a in view.aggregates))
        }
        self._point = {point: i for i, point in enumerate(points)}
        self._view = np.array([v for v, _ in points], np.intp)
        # A strict view sees events before the time, that is, up to one microsecond before it.
        self._back = _column([back + views[v].strict for v, back in points])
        self._width = _column([self.layouts[v].width for v, _ in points])
        self._oldest = _column([view.max_window_us + view.strict for view in views])

    def _plan_windows(self, views: Sequence[FeatureView]) -> None:
        windows: dict[tuple[int, str, int], int] = {}
        by_op: dict[str, list[tuple[int, int]]] = {}
        aggregates = [(v, a) for v, view in enumerate(views) for a in view.aggregates]
        for v, a in aggregates:
            windows.setdefault((v, a.column, a.window_us), len(windows))
        for v, a in aggregates:
            by_op.setdefault(a.op, []).append((self._at[a.name], windows[v, a.column, a.window_us]))
        self._ops = {op: (np.array([f for f, _ in of]), np.array([w for _, w in of])) for op, of in by_op.items()}
        self._has_windows = bool(windows)
        self._upto = np.array([self._point[v, 0] for v, _, _ in windows], np.intp)
        self._since = np.array([self._point[v, back] for v, _, back in windows], np.intp)
        self._of = np.array([v for v, _, _ in windows], np.intp)
        resolutions = {(v, a.column): a.resolution for v, a in aggregates}
        self._resolution = _column([resolutions[v, column] for v, column, _ in windows], float)
        self._word = {
            what: _column([self.layouts[v].words.get((what, column), 0) for v, column, _ in windows])
            for what in ("count", "sum", "square", "value", "gap")
        }

    def _plan_latest(self, views: Sequence[FeatureView]) -> None:
        latest = [(v, f) for v, view in enumerate(views) for f in view.latest]
        self._views_with_latest = sorted({v for v, _ in latest})
        slot = {v: i for i, v in enumerate(self._views_with_latest)}
        words = [layout.words for layout in self.layouts]
        self._latest_point = np.array([self._point[v, 0] for v in self._views_with_latest], np.intp)
        self._latest_width = _column([self.layouts[v].width for v in self._views_with_latest])
        self._event_word = _column([words[v]["event", ""] for v in self._views_with_latest])
        self._lead_word = _column([words[v]["lead", ""] for v in self._views_with_latest])
        with_latest = [views[v] for v in self._views_with_latest]
        # How old the newest event may be at the time of a row, where it expires.
        self._ttl = _column([view.strict + (view.ttl_us or 0) for view in with_latest])
        self._expires = _column([view.ttl is not None for view in with_latest], bool)
        numbers = [(v, f) for v, f in latest if f.kind != "category"]
        self._last = np.array([self._at[f.name] for _, f in numbers], np.intp)
        self._last_slot = np.array([slot[v] for v, _ in numbers], np.intp)
        self._last_word = _column([words[v]["last", f.name] for v, f in numbers])
        self._last_texts = [(slot[v], v, f.name) for v, f in latest if f.kind == "category"]

    def __call__(self, states: Sequence[bytes], which: np.ndarray, at: np.ndarray) -> LookupResult:
        """Look up features.

        Args:
            states: States of entities.
            which: Position in ``states`` of the state of each row's entity, [views, rows].
            at: Time of each row, microseconds since the epoch, [rows].

        Raises:
            DataError: A state no longer has the events that a time needs.
        """
        words, starts = concat_states(states)
        base = starts[which]
        self._check(words, base, at)
        head, count = base + HEAD_WORDS, words[base]
        index = self._search(words, head, count, at)
        row = head[self._view] + index * self._width
        numbers = np.zeros((len(self.number_columns), at.size))
        if self._has_windows:
            self._windows(words, index, row, base, numbers)
        texts = self._latest(words, index, row, base, at, numbers) if self._views_with_latest else []
        return LookupResult(numbers, texts)

    def _check(self, words: np.ndarray, base: np.ndarray, at: np.ndarray) -> None:
        beyond = at - self._oldest < words[base + _CUT]
        if beyond.any():
            raise lookup_too_old(self.layouts[int(np.argmax(beyond.any(axis=1)))].view)

    def _search(self, words: np.ndarray, head: np.ndarray, count: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Number of the last row of the state that counts at each point, [points, rows]; row 0 always counts."""
        times = at - self._back
        first, last, width = head[self._view], count[self._view], self._width
        last_counted = np.zeros(times.shape, np.int64)
        step = 1 << int(count.max()).bit_length() >> 1
        while step:
            probe = last_counted + step
            counts = (words[first + np.minimum(probe, last) * width] <= times) & (probe <= last)
            last_counted = np.where(counts, probe, last_counted)
            step >>= 1
        return last_counted

    def _windows(
        self, words: np.ndarray, index: np.ndarray, row: np.ndarray, base: np.ndarray, numbers: np.ndarray
    ) -> None:
        upto, since = row[self._upto], row[self._since]

        def window_totals(what: str, of: np.ndarray) -> np.ndarray:
            word = self._word[what][of]
            return words[upto[of] + word] - words[since[of] + word]

        for op, (features, of) in self._ops.items():
            n = window_totals("count", of)
            if op == "count":
                numbers[features] = n
            elif op == "distinct":
                numbers[features] = self._between(words, op, of, index, since)
            elif op in ("min", "max"):
                numbers[features] = np.where(n > 0, self._between(words, op, of, index, since), np.nan)
            elif op == "std":
                numbers[features] = np.where(n > 1, self._std(words, upto, since, base, of, n, window_totals), np.nan)
            else:
                total = window_totals("sum", of).astype(np.float64) * self._resolution[of]
                numbers[features] = np.where(n > 0, total / np.maximum(n, 1), np.nan) if op == "mean" else total

    def _std(
        self, words: np.ndarray, upto: np.ndarray, since: np.ndarray, base: np.ndarray, of: np.ndarray, n: np.ndarray,
        window_totals: Callable[[str, np.ndarray], np.ndarray],
    ) -> np.ndarray:  # fmt: skip
        """Sample standard deviation by exact integers: sqrt((n s2 - s1²) / (n (n - 1))), each rounded once."""
        peak = words[base[self._of[of]] + _PEAK].astype(np.float64)
        s1, s2 = window_totals("sum", of), window_totals("square", of)
        top, bottom = (n * s2 - s1 * s1).astype(np.float64), np.maximum(n * (n - 1), 1).astype(np.float64)
        # Larger integers wrapped around: these few are computed one by one, with integers of any size.
        for w, r in np.argwhere(np.square(n * peak) > _EXACT_LIMIT):
            i = of[w]
            width, word = int(self._width[self._upto[i], 0]), int(self._word["sum"][i, 0])
            running = words[int(since[i, r]) + word : int(upto[i, r]) + word + 1 : width]
            values = np.diff(running).tolist()
            k, total = int(n[w, r]), sum(values)
            top[w, r] = float(k * sum(value * value for value in values) - total * total)
        return np.sqrt(top / bottom) * self._resolution[of]

    def _between(self, words: np.ndarray, op: str, of: np.ndarray, index: np.ndarray, since: np.ndarray) -> np.ndarray:
        """min, max or distinct over the rows of each window, [windows, rows]; 0 where there is no row."""
        length = (index[self._upto[of]] - index[self._since[of]]).ravel()
        result = np.zeros(length.shape)
        some = np.flatnonzero(length)
        if not some.size:
            return result.reshape(len(of), -1)
        length = length[some]
        ends = np.cumsum(length)
        starts = ends - length
        word = self._word["gap" if op == "distinct" else "value"][of]
        width = np.broadcast_to(self._width[self._upto[of]], (len(of), index.shape[1])).ravel()[some]
        first = (since[of] + word).ravel()[some]
        # Position of each row in its window, from 1.
        into = np.arange(ends[-1]) - np.repeat(starts, length) + 1
        cells = words[np.repeat(first, length) + into * np.repeat(width, length)]
        if op == "distinct":
            # A value's first row in the window is the one whose predecessor is before the window.
            result[some] = np.add.reduceat((cells >= into).astype(np.int64), starts)
        else:
            result[some] = (np.fmin if op == "min" else np.fmax).reduceat(cells.view(np.float64), starts)
        return result.reshape(len(of), -1)

    def _latest(
        self,
        words: np.ndarray,
        index: np.ndarray,
        row: np.ndarray,
        base: np.ndarray,
        at: np.ndarray,
        numbers: np.ndarray,
    ) -> list[list[str | None]]:
        upto = row[self._latest_point]
        back = words[upto + self._lead_word]
        lead = upto - back * self._latest_width
        fresh = ~self._expires | (words[lead + self._event_word] > at - self._ttl)
        if self._last.size:
            values = words[lead[self._last_slot] + self._last_word].view(np.float64)
            numbers[self._last] = np.where(fresh[self._last_slot], values, np.nan)
        return [
            self._text(words, lead[s], index[self._latest_point[s]] - back[s], base[v], fresh[s], v, name)
            for s, v, name in self._last_texts
        ]

    def _text(
        self, words: np.ndarray, lead: np.ndarray, place: np.ndarray, base: np.ndarray, fresh: np.ndarray, view: int,
        name: str,
    ) -> list[str | None]:  # fmt: skip
        """A category of the newest event, by row. ``place`` is the number of the event in its state."""
        layout = self.layouts[view]
        word = layout.words["last text", name]
        last = base + HEAD_WORDS + words[base] * layout.width
        start = (last + layout.width) * WORD_BYTES
        for kind in layout.texts[: layout.texts.index(("last text", name))]:
            start = start + words[last + layout.words[kind]]
        end = start + words[lead + word]
        start = start + np.where(place > 0, words[lead + word - np.where(place > 0, layout.width, 0)], 0)
        data = words.data.cast("B")
        raw = [bytes(data[a:b]) for a, b in zip(start.tolist(), end.tolist(), strict=True)]
        return [
            text.decode() if is_fresh and text != NULL_TEXT else None
            for text, is_fresh in zip(raw, fresh.tolist(), strict=True)
        ]


def _column(values: Sequence[Any], kind: type = np.int64) -> np.ndarray:
    """Values as an array [n, 1], which broadcasts over rows."""
    return np.array(values, kind).reshape(-1, 1)
