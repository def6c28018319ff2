"""Features of one entity at one time, from its online state. batch_lookup.py does the same for many rows.

An array operation costs as much as ten operations on numbers. A request of few rows is answered with Python's own
integers and floats: the same integers in the same formulas, and so the same bits.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from features.definitions import Aggregate, FeatureView
from features.online.state_codec import HEAD_WORDS, NULL_TEXT, WORD_BYTES, StateLayout, lookup_too_old

WindowFunction = Callable[[memoryview, int, int, int], float]
"""From the words of the state, the row before the window, its last row and its number of values: a feature or NaN."""

NAN = math.nan
LONG_WINDOW = 100
"""Windows with more rows are faster as an array operation."""
_MODULUS = 1 << 64


class RowLookup:
    """Looks up the features of one view for one entity and time."""

    def __init__(self, view: FeatureView) -> None:
        self._layout = StateLayout(view)
        self._width, self._words = self._layout.width, self._layout.words
        self._strict, self._oldest = int(view.strict), view.max_window_us + view.strict
        columns: dict[int, dict[str, None]] = {}
        for aggregate in view.aggregates:
            columns.setdefault(aggregate.window_us, {})[aggregate.column] = None
        self._windows = [
            (back, [(self._words["count", column], self._functions(view, column, back)) for column in of_window])
            for back, of_window in columns.items()
        ]
        self._numbers = len([c for c in view.columns if c.kind != "category"])
        self._ttl = view.ttl_us
        self._last = [
            (len(view.aggregates) + i, self._words["last", f.name])
            for i, f in enumerate(f for f in view.latest if f.kind != "category")
        ]
        self._texts = [f.name for f in view.latest if f.kind == "category"]

    def _functions(self, view: FeatureView, column: str, back: int) -> list[tuple[int, WindowFunction]]:
        chosen = [(i, a) for i, a in enumerate(view.aggregates) if (a.column, a.window_us) == (column, back)]
        return [(i, _window_function(self._layout, aggregate)) for i, aggregate in chosen]

    def __call__(self, state: bytes, at: int) -> tuple[list[float], list[str | None]]:
        """Look up features.

        Args:
            state: The entity's state.
            at: Time, microseconds since the epoch.

        Returns:
            Numbers and times, NaN for missing, and texts, each in the order of the view's columns.

        Raises:
            DataError: The state no longer has the events that the time needs.
        """
        words, width = memoryview(state).cast("q"), self._width
        if at - self._oldest < words[1]:
            raise lookup_too_old(self._layout.view)
        last_us = at - self._strict
        times = words[HEAD_WORDS : HEAD_WORDS + (words[0] + 1) * width : width]
        last = bisect_right(times, last_us) - 1
        upto = HEAD_WORDS + last * width
        numbers: list[float] = [NAN] * self._numbers
        for back, columns in self._windows:
            since = HEAD_WORDS + (bisect_right(times, last_us - back, 0, last + 1) - 1) * width
            for word, reads in columns:
                n = words[upto + word] - words[since + word]
                for i, read in reads:
                    numbers[i] = read(words, since, upto, n)
        return numbers, self._newest(state, words, upto, last_us, numbers) if self._last or self._texts else []

    def _newest(
        self, state: bytes, words: memoryview, upto: int, last_us: int, numbers: list[float]
    ) -> list[str | None]:
        lead = upto - words[upto + self._words["lead", ""]] * self._width
        if self._ttl is not None and words[lead + self._words["event", ""]] <= last_us - self._ttl:
            return [None] * len(self._texts)
        for i, word in self._last:
            numbers[i] = words[lead + word : lead + word + 1].cast("B").cast("d")[0]
        return [self._text(state, words, lead, name) for name in self._texts]

    def _text(self, state: bytes, words: memoryview, lead: int, name: str) -> str | None:
        last, word = HEAD_WORDS + words[0] * self._width, self._words["last text", name]
        texts = self._layout.texts
        at = (last + self._width) * WORD_BYTES
        at += sum(words[last + self._words[kind]] for kind in texts[: texts.index(("last text", name))])
        start = words[lead - self._width + word] if lead > HEAD_WORDS else 0
        text = state[at + start : at + words[lead + word]]
        return None if text == NULL_TEXT else text.decode()


def _window_function(layout: StateLayout, aggregate: Aggregate) -> WindowFunction:
    words, width, resolution = layout.words, layout.width, aggregate.resolution
    column = aggregate.column
    if aggregate.op == "count":
        return lambda w, since, upto, n: float(n)
    if aggregate.op == "distinct":
        return _distinct(words["gap", column], width)
    if aggregate.op in ("min", "max"):
        return _extreme(min if aggregate.op == "min" else max, words["value", column], width)
    word = words["sum", column]
    if aggregate.op == "sum":
        return lambda w, since, upto, n: float(w[upto + word] - w[since + word]) * resolution
    if aggregate.op == "mean":
        return lambda w, since, upto, n: float(w[upto + word] - w[since + word]) * resolution / n if n else NAN
    return _std(word, words["square", column], width, resolution)


def _std(word: int, square: int, width: int, resolution: float) -> WindowFunction:
    def read(words: memoryview, since: int, upto: int, n: int) -> float:
        if n < 2:
            return NAN
        total = words[upto + word] - words[since + word]
        squares = (words[upto + square] - words[since + square]) % _MODULUS
        if n * words[2] ** 2 >= _MODULUS:
            running = words[since + word : upto + word + 1 : width].tolist()
            squares = sum((b - a) ** 2 for a, b in pairwise(running))
        return math.sqrt(float(n * squares - total * total) / float(n * (n - 1))) * resolution

    return read


def _extreme(which: Callable[[Sequence[float]], float], word: int, width: int) -> WindowFunction:
    def read(words: memoryview, since: int, upto: int, n: int) -> float:
        if not n:
            return NAN
        floats = words.cast("B").cast("d")[since + width + word : upto + word + 1 : width]
        if len(floats) > LONG_WINDOW:
            return float((np.fmin if which is min else np.fmax).reduce(np.asarray(floats)))
        return which([value for value in floats.tolist() if value == value])

    return read


def _distinct(word: int, width: int) -> WindowFunction:
    def read(words: memoryview, since: int, upto: int, n: int) -> float:
        gaps = words[since + width + word : upto + word + 1 : width]
        # A value's first row in the window is the one whose predecessor is before the window.
        if len(gaps) > LONG_WINDOW:
            return float(np.count_nonzero(np.asarray(gaps) >= np.arange(1, len(gaps) + 1)))
        return float(sum(gap >= into for into, gap in enumerate(gaps.tolist(), 1)))

    return read
