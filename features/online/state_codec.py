"""An entity's recent events as bytes: what the online store has for one key of one view. Pure; no store.

States keep and add up the same integers as the point-in-time join, so that a value read online
(features/online/batch_lookup.py) is, bit for bit, the value that the join gives for that time.
docs/decisions/0023 explains the layout.

A state is a whole number of little-endian int64 words: a head, then a row of ``Layout.width`` words for each event,
sorted by the time from which it counts, then the events' texts.

head        number of events; ``cut``: events that count from then on or before may be gone; the largest value in units;
            from when the event of row 0 counts
row 0       what remains of events that are gone: the newest of them, for latest, and nothing in any window
rows 1..    from when the event counts; for each aggregated column, running over the rows: number of values, sum in
            units, sum of squares in units (modulo 2**64), end of its text; of the event alone: the bits of the value,
            how many rows back the same value is; for latest: event time, tie breaker, how many rows back the newest
            event is, bits of its numbers and running ends of its texts
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from cluster.errors import DataError
from features.definitions import Aggregate, FeatureView, Latest
from features.events.event_history import EVENT_TIME, KNOWN_AT, TIE_BREAKER, latest_column, to_units, value_column

# How far behind the newest event a lookup may be and still be exact.
MAX_LATENESS_US = 24 * 3600 * 1_000_000

HEAD_WORDS = 4
WORD_BYTES = 8
"""Bytes of a word."""
NEVER = int(np.iinfo(np.int64).min)
NULL_TEXT = b"\xff"
"""Represents a missing text: this byte never occurs in UTF-8."""
NO_PREDECESSOR = 1 << 62
"""Distance to the same value before, where there is none."""

_COUNT, _CUT, _PEAK, _LEFT = range(HEAD_WORDS)
_MAX_SUM = 2.0**62
_SUMMED = ("sum", "mean", "std")

_TextColumns = dict[tuple[str, str], pa.LargeBinaryArray]
"""Texts of a history by kind and column; see ``StateLayout.texts``."""


class EventMatrix(NamedTuple):
    """Events as rows of words: new ones, or decoded states."""

    entity: np.ndarray
    """Number of each event's entity, from 0, int64 [events]."""
    matrix: np.ndarray
    """Words of each event, int64 [events, StateLayout.width]; running words have the event's own part."""
    texts: list[pa.LargeBinaryArray]
    """Texts by column."""

    def take(self, rows: np.ndarray) -> EventMatrix:
        """Select rows by position."""
        picked = pa.array(rows)
        return EventMatrix(self.entity[rows], self.matrix[rows], [text.take(picked) for text in self.texts])


class StateLayout:
    """Encodes the states of a view.

    ``words`` maps (what, column or feature) to the position of the word in a row. For aggregates, what is one of at,
    count, sum, square, value, gap, text; for latest, one of event, tie, lead, last, last text.
    """

    def __init__(self, view: FeatureView) -> None:
        self.view = view
        self._columns: dict[str, list[Aggregate]] = {}
        for aggregate in view.aggregates:
            self._columns.setdefault(aggregate.column, []).append(aggregate)
        kinds = [("at", ""), *self._of_aggregates(), *self._of_latest()]
        self.words = {kind: word for word, kind in enumerate(kinds)}
        self.width = len(kinds)
        self.texts = [kind for kind in kinds if kind[0] in ("text", "last text")]
        running = ("count", "sum", "square", "text", "last text")
        self._running = np.array([word for kind, word in self.words.items() if kind[0] in running], np.intp)
        of_latest = ("event", "tie", "last", "last text")
        self._latest_words = np.array([word for (what, _), word in self.words.items() if what in of_latest], np.intp)
        self._sums = {column: self.words[what, column] for what, column in kinds if what == "sum"}
        self.empty = self._empty_state()

    def _of_aggregates(self) -> list[tuple[str, str]]:
        kinds = []
        for column, aggregates in self._columns.items():
            ops = {aggregate.op for aggregate in aggregates}
            is_text = aggregates[0].kind == "category"
            has = {
                "count": True,
                "sum": bool(ops.intersection(_SUMMED)),
                "square": "std" in ops,
                "value": bool(ops.intersection(("min", "max", "distinct"))) and not is_text,
                "gap": "distinct" in ops,
                "text": "distinct" in ops and is_text,
            }
            kinds += [(what, column) for what, is_needed in has.items() if is_needed]
        return kinds

    def _of_latest(self) -> list[tuple[str, str]]:
        if not self.view.latest:
            return []
        head = [("event", ""), ("tie", ""), ("lead", "")] if self.view.ties else [("event", ""), ("lead", "")]
        return head + [("last text" if f.kind == "category" else "last", f.name) for f in self.view.latest]

    def _empty_state(self) -> bytes:
        """The state of an entity without events."""
        lowest, nan = np.array([-np.inf, np.nan]).view(np.int64).tolist()
        blanks = {"at": NEVER, "event": NEVER, "tie": lowest, "last": nan, "last text": len(NULL_TEXT)}
        row = np.array([blanks.get(what, 0) for what, _ in self.words], np.int64)
        head = np.array([0, NEVER, 0, NEVER], np.int64)
        texts = b"".join(NULL_TEXT for what, _ in self.texts if what == "last text")
        return _pad(head.tobytes() + row.tobytes() + texts)

    def encode_events(self, rows: pl.DataFrame, entity: np.ndarray) -> EventMatrix:
        """Encode rows of a history (features/events/event_history.py).

        Args:
            rows: The history.
            entity: Number of each row's entity, from 0.

        Raises:
            DataError: A value is too large for its resolution.
        """
        matrix = np.zeros((rows.height, self.width), np.int64)
        matrix[:, 0] = rows.get_column(KNOWN_AT)
        texts: _TextColumns = {}
        for column, aggregates in self._columns.items():
            self._fill_aggregates(matrix, texts, column, aggregates[0], rows.get_column(value_column(aggregates[0])))
        if self.view.latest:
            matrix[:, self.words["event", ""]] = rows.get_column(EVENT_TIME)
            if self.view.ties:
                matrix[:, self.words["tie", ""]] = _bits(rows.get_column(TIE_BREAKER))
        for latest in self.view.latest:
            self._fill_latest(matrix, texts, latest, rows.get_column(latest_column(latest)))
        return EventMatrix(entity, matrix, [texts[kind] for kind in self.texts])

    def _fill_aggregates(
        self, matrix: np.ndarray, texts: _TextColumns, column: str, aggregate: Aggregate, values: pl.Series
    ) -> None:
        words = self.words
        matrix[:, words["count", column]] = values.is_not_null()
        if ("sum", column) in words:
            matrix[:, words["sum", column]] = to_units(self.view, aggregate, values).fill_null(0)
        if ("square", column) in words:
            matrix[:, words["square", column]] = np.square(matrix[:, words["sum", column]])
        if ("value", column) in words:
            matrix[:, words["value", column]] = _bits(values)
        if ("text", column) in words:
            texts["text", column], matrix[:, words["text", column]] = _texts(values)

    def _fill_latest(self, matrix: np.ndarray, texts: _TextColumns, latest: Latest, values: pl.Series) -> None:
        if latest.kind == "category":
            kind = ("last text", latest.name)
            texts[kind], matrix[:, self.words[kind]] = _texts(values)
        else:
            matrix[:, self.words["last", latest.name]] = _bits(values)

    def extend(self, states: Sequence[bytes], fresh: EventMatrix) -> list[bytes]:
        """Add events to states, and drop what no exact lookup can need.

        Args:
            states: The state of each entity, in the order of their numbers.
            fresh: New events, at least one for each entity.

        Raises:
            DataError: A sum may exceed 64 bits.
        """
        cut, left, old = self._decode(states)
        both = EventMatrix(
            np.concatenate([old.entity, fresh.entity]),
            np.concatenate([old.matrix, fresh.matrix]),
            [pa.concat_arrays(pair) for pair in zip(old.texts, fresh.texts, strict=True)],
        )
        return self._encode(*self._trim(cut, left, both.take(self._order(both))))

    def keep_later(self, states: Sequence[bytes], old: Sequence[bytes | None], after_us: int) -> list[bytes]:
        """Add the events of older states that count after a time, such as those that were pushed ahead of the table.

        Args:
            states: The state of each entity.
            old: Its older state; None without one.
            after_us: Microseconds since the epoch.
        """
        events = self._decode([state or self.empty for state in old])[2]
        later = events.matrix[:, 0] > after_us
        later[np.flatnonzero(np.diff(events.entity, prepend=-1))] = False
        chosen = events.take(np.flatnonzero(later))
        entities, numbers = np.unique(chosen.entity, return_inverse=True)
        if not entities.size:
            return list(states)
        extended = self.extend([states[e] for e in entities], EventMatrix(numbers, chosen.matrix, chosen.texts))
        by_entity = dict(zip(entities.tolist(), extended, strict=True))
        return [by_entity.get(number, state) for number, state in enumerate(states)]

    def _order(self, events: EventMatrix) -> np.ndarray:
        """Order by entity, time and tie breaker; equal events keep their order."""
        return np.lexsort([*self._tie_breakers(events, slice(None)), events.matrix[:, 0], events.entity])

    def _tie_breakers(self, events: EventMatrix, rows: np.ndarray | slice) -> list[np.ndarray]:
        """The sort key of the rows' tie breakers; none without ``ties``."""
        return [_floats(events.matrix[rows, self.words["tie", ""]])] if ("tie", "") in self.words else []

    def _decode(self, states: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, EventMatrix]:
        """``cut`` of each state; from when its row 0 counts; and all rows, including rows 0."""
        words, starts = concat_states(states)
        rows = words[starts + _COUNT] + 1
        entity = np.repeat(np.arange(len(states)), rows)
        first = np.cumsum(rows) - rows
        position = (starts + HEAD_WORDS)[entity] + (np.arange(len(entity)) - first[entity]) * self.width
        matrix = words[position[:, None] + np.arange(self.width)]
        running = matrix[:, self._running]
        before = np.vstack([np.zeros_like(running[:1]), running[:-1]])
        before[first] = 0
        matrix[:, self._running] = running - before
        texts = self._texts_of(states, rows, running[first + rows - 1], matrix)
        return words[starts + _CUT], words[starts + _LEFT], EventMatrix(entity, matrix, texts)

    def _texts_of(
        self, states: Sequence[bytes], rows: np.ndarray, totals: np.ndarray, matrix: np.ndarray
    ) -> list[pa.LargeBinaryArray]:
        if not self.texts:
            return []
        of_texts = [int(np.flatnonzero(self._running == self.words[kind])[0]) for kind in self.texts]
        at = (HEAD_WORDS + rows * self.width) * WORD_BYTES
        texts = []
        for kind, sizes in zip(self.texts, totals[:, of_texts].T, strict=True):
            data = b"".join(s[a : a + size] for s, a, size in zip(states, at.tolist(), sizes.tolist(), strict=True))
            offsets = np.concatenate([[0], np.cumsum(matrix[:, self.words[kind]])])
            buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
            texts.append(pa.Array.from_buffers(pa.large_binary(), len(matrix), buffers))
            at = at + sizes
        return texts

    def _trim(
        self, cut: np.ndarray, left: np.ndarray, events: EventMatrix
    ) -> tuple[np.ndarray, np.ndarray, EventMatrix]:
        """Drop events that are too old for any window; the newest of them becomes row 0."""
        at, entity = events.matrix[:, 0], events.entity
        first = np.flatnonzero(np.diff(entity, prepend=-1))
        newest = at[np.append(first[1:], len(at)) - 1]
        oldest = newest - self.view.max_window_us - MAX_LATENESS_US
        dropped_mask = at <= oldest[entity]
        dropped_mask[first] = False
        if not dropped_mask.any():
            return cut, left, events
        last_dropped = first + np.add.reduceat(dropped_mask.astype(np.int64), first)
        some = last_dropped > first
        source = np.arange(len(at))
        if self.view.latest:
            source[first], left = self._newest(events, dropped_mask, first, left)
        matrix = events.matrix.copy()
        matrix[:, self._latest_words] = events.matrix[np.ix_(source, self._latest_words)]
        texts = [
            text.take(pa.array(source if what == "last text" else np.arange(len(at))))
            for (what, _), text in zip(self.texts, events.texts, strict=True)
        ]
        cut = np.where(some, np.maximum(cut, at[last_dropped]), cut)
        return cut, left, EventMatrix(entity, matrix, texts).take(np.flatnonzero(~dropped_mask))

    def _newest(
        self, events: EventMatrix, dropped_mask: np.ndarray, first: np.ndarray, left: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """For each entity, the row with the newest of the events that are gone, and from when it counts.

        A late event may count from earlier than the dropped event of row 0.
        """
        counts, old = events.matrix[:, 0].copy(), dropped_mask.copy()
        counts[first], old[first] = left, True
        rows = np.flatnonzero(old)
        keys = [counts[rows], events.matrix[rows, self.words["event", ""]], events.entity[rows]]
        ordered = rows[np.lexsort([*self._tie_breakers(events, rows), *keys])]
        newest = ordered[np.flatnonzero(np.diff(events.entity[ordered], append=-1))]
        return newest, counts[newest]

    def _lead(self, events: EventMatrix) -> np.ndarray:
        """At each row, how many rows back the newest event of its entity so far is; of equal times, the last."""
        rank = np.unique(events.matrix[:, self.words["event", ""]], return_inverse=True)[1]
        # Entities ascend, so that the first row of an entity outranks all rows before it.
        rank = events.entity * (int(rank.max()) + 1) + rank
        here = np.arange(len(rank))
        leads = rank == np.maximum.accumulate(rank)
        return here - np.maximum.accumulate(np.where(leads, here, 0))

    def _gap(self, events: EventMatrix, column: str) -> np.ndarray:
        """How many rows back the same value is; NO_PREDECESSOR where there is none, 0 for a missing value."""
        if ("text", column) in self.words:
            text = events.texts[self.texts.index(("text", column))]
            value = text.dictionary_encode().indices.to_numpy().astype(np.int64)
        else:
            value = events.matrix[:, self.words["value", column]]
        present = np.flatnonzero(events.matrix[:, self.words["count", column]])
        order = present[np.lexsort((value[present], events.entity[present]))]
        again = (np.diff(value[order]) == 0) & (np.diff(events.entity[order]) == 0)
        gap = np.zeros(len(value), np.int64)
        gap[order] = NO_PREDECESSOR
        gap[order[1:][again]] = np.diff(order)[again]
        return gap

    def _encode(self, cut: np.ndarray, left: np.ndarray, events: EventMatrix) -> list[bytes]:
        """One state for each entity."""
        entity, matrix = events.entity, events.matrix
        first = np.flatnonzero(np.diff(entity, prepend=-1))
        rows = np.diff(np.append(first, len(entity)))
        peak = np.zeros(len(first), np.int64)
        for column, word in self._sums.items():
            largest = np.maximum.reduceat(np.abs(matrix[:, word]), first)
            self._check_sums(column, rows, largest)
            peak = np.maximum(peak, largest)
        for (what, column), word in self.words.items():
            if what == "gap":
                matrix[:, word] = self._gap(events, column)
            elif what == "lead":
                matrix[:, word] = self._lead(events)
        own = matrix[:, self._running]
        total = np.cumsum(own, axis=0)
        matrix[:, self._running] = total - (total[first] - own[first])[entity]
        starts = np.arange(len(first)) * HEAD_WORDS + first * self.width
        words = np.empty(len(first) * HEAD_WORDS + matrix.size, np.int64)
        for word, of_head in ((_COUNT, rows - 1), (_CUT, cut), (_PEAK, peak), (_LEFT, left)):
            words[starts + word] = of_head
        words[
            (starts + HEAD_WORDS)[entity][:, None]
            + (np.arange(len(entity)) - first[entity])[:, None] * self.width
            + np.arange(self.width)
        ] = matrix
        return _split(words, np.append(starts, len(words)), first, events.texts)

    def _check_sums(self, column: str, rows: np.ndarray, largest: np.ndarray) -> None:
        if float((rows.astype(np.float64) * largest).max()) > _MAX_SUM:
            raise DataError("data.sum_exceeds_resolution", column=column, view=self.view.name)


def lookup_too_old(view: FeatureView) -> DataError:
    """Return the error of a lookup that needs events which a state no longer has."""
    return DataError("data.lookup_too_old", view=view.name, limit_h=MAX_LATENESS_US // 3_600_000_000)


def concat_states(states: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate states; returns their words, int64, and the position at which each starts."""
    sizes = np.fromiter(map(len, states), np.int64, len(states)) // WORD_BYTES
    return np.frombuffer(b"".join(states), np.int64), np.cumsum(sizes) - sizes


def _split(words: np.ndarray, starts: np.ndarray, first: np.ndarray, texts: list[pa.LargeBinaryArray]) -> list[bytes]:
    data = words.data.cast("B")
    states = [bytes(data[a:b]) for a, b in pairwise((starts * WORD_BYTES).tolist())]
    if not texts:
        return states
    tails = []
    for text in texts:
        offsets = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
        bounds, characters = offsets[np.append(first, len(text))].tolist(), memoryview(text.buffers()[2] or b"")
        tails.append([bytes(characters[a:b]) for a, b in pairwise(bounds)])
    return [_pad(b"".join(parts)) for parts in zip(states, *tails, strict=True)]


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % WORD_BYTES)


def _bits(values: pl.Series) -> np.ndarray:
    """Float64 bit patterns, nulls as NaN."""
    return np.array(values.fill_null(float("nan")).to_numpy(), np.float64).view(np.int64)


def _floats(bits: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(bits).view(np.float64)


def _texts(values: pl.Series) -> tuple[pa.LargeBinaryArray, np.ndarray]:
    """Texts as bytes, and the length of each."""
    raw = values.cast(pl.Binary).fill_null(pl.lit(NULL_TEXT)).to_arrow().cast(pa.large_binary())
    raw = raw.combine_chunks() if isinstance(raw, pa.ChunkedArray) else raw
    offsets = np.frombuffer(raw.buffers()[1], np.int64)[raw.offset : raw.offset + len(raw) + 1]
    return raw, np.diff(offsets)
