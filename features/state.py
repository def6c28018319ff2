"""An entity's recent events as bytes, and the features they give at a time. Pure; no store.

The same integers as in features/pit.py are kept and added, so that a value read online is, bit for
bit, the value the point-in-time join gives for that time.

Layout, little endian: uint32 n, int64 ``cut`` (events known at or before it may be gone), then an
int64 matrix of shape [2 + numbers, n] whose rows are known-at and event time (microseconds) and the
numbers (units of an aggregate; float64 bits of a latest number), then a JSON list for each category.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import numpy as np
import polars as pl

from cluster.errors import DataError
from features.definitions import Aggregate, FeatureView
from features.history import units

# How far behind the newest event a look-up may lie and still be exact.
LATENESS_US = 24 * 3600 * 1_000_000
_HEADER = struct.Struct("<Iq")
_NULL = np.iinfo(np.int64).min
_NEVER = int(_NULL)
_KNOWN, _EVENT = 0, 1


class State(NamedTuple):
    """Events sorted by known-at time: ``matrix`` [2 + numbers, n], ``texts`` one list a category."""

    cut: int
    matrix: np.ndarray
    texts: list[list[str | None]]

    def take(self, events: Sequence[int] | np.ndarray) -> State:
        """The events at these positions, in this order."""
        return State(self.cut, self.matrix[:, events], [[column[i] for i in events] for column in self.texts])


class Layout:
    """Where each column of a view stands in its states."""

    def __init__(self, view: FeatureView) -> None:
        self.view = view
        self._sums = list({a.column: a for a in view.aggregates}.values())
        self._numbers = [f for f in view.latest if f.kind == "number"]
        self._texts = [f for f in view.latest if f.kind == "category"]
        self._row_of = {a.column: 2 + i for i, a in enumerate(self._sums)}
        self._ttl_us = None if view.ttl is None else view.ttl // timedelta(microseconds=1)
        self._windows = list(dict.fromkeys((a.column, a.window_us) for a in view.aggregates))

    @property
    def empty(self) -> State:
        return State(
            _NEVER, np.empty((2 + len(self._sums) + len(self._numbers), 0), np.int64), [[] for _ in self._texts]
        )

    def pack(self, state: State) -> bytes:
        head = _HEADER.pack(state.matrix.shape[1], state.cut)
        tail = json.dumps(state.texts).encode() if self._texts else b""
        return head + np.ascontiguousarray(state.matrix).tobytes() + tail

    def unpack(self, data: bytes | memoryview) -> State:
        n, cut = _HEADER.unpack_from(data)
        rows = 2 + len(self._sums) + len(self._numbers)
        matrix = np.frombuffer(data, np.int64, rows * n, _HEADER.size).reshape(rows, n)
        texts = json.loads(bytes(data[_HEADER.size + rows * n * 8 :])) if self._texts else []
        return State(cut, matrix, texts)

    def events(self, rows: pl.DataFrame) -> State:
        """Rows of the source, sorted by known-at time, as a state; those of one entity, or to be taken apart (State.take)."""
        times = [rows.get_column(c).dt.epoch("us") for c in (self.view.known_at, self.view.event_time)]
        sums = [units(self.view, a, rows.select(_finite(a.column)).to_series()).fill_null(_NEVER) for a in self._sums]
        numbers = [_bits(rows.get_column(f.column)) for f in self._numbers]
        matrix = np.stack([np.asarray(column, np.int64) for column in [*times, *sums, *numbers]])
        return State(_NEVER, matrix, [rows.get_column(f.column).cast(pl.String).to_list() for f in self._texts])

    def extend(self, state: State, more: State) -> State:
        """Both together in known-at order, less what no exact look-up can need any more."""
        joined = np.concatenate([state.matrix, more.matrix], axis=1)
        texts = [old + new for old, new in zip(state.texts, more.texts, strict=True)]
        order = np.argsort(joined[_KNOWN], kind="stable")
        return self._trim(State(state.cut, joined, texts).take(order))

    def _trim(self, state: State) -> State:
        known = state.matrix[_KNOWN]
        if not known.size:
            return state
        oldest = int(known[-1]) - self.view.max_window_us - LATENESS_US
        first = int(np.searchsorted(known, oldest, side="right"))
        if self.view.latest and first:
            # The event that was the newest at the cut still answers until another one is newer.
            first = min(first, self._leader(state, first))
        if not first:
            return state
        return State(max(state.cut, oldest), state.matrix[:, first:], [texts[first:] for texts in state.texts])

    def read(self, state: State | None, at: int) -> list[float | str | None]:
        """The view's features at time ``at`` (microseconds), in the order of ``view.columns``."""
        if state is None:
            state = self.empty
        if at - self.view.max_window_us < state.cut and state.matrix.shape[1]:
            raise DataError(
                f"feature view {self.view.name!r} is asked for a time more than {LATENESS_US // 3_600_000_000} h behind its"
                " newest event, which the online store no longer holds",
                "use the offline join for the past",
            )
        known = state.matrix[_KNOWN]
        upto = int(known.searchsorted(at, side="right"))
        sums = {
            key: self._sum(state, key[0], int(known.searchsorted(at - key[1], side="right")), upto)
            for key in self._windows
        }
        values: list[float | str | None] = [_value(a, *sums[a.column, a.window_us]) for a in self.view.aggregates]
        return values + self._latest(state, at, upto)

    def _sum(self, state: State, column: str, start: int, upto: int) -> tuple[int, int]:
        """Number of values and their sum in units, over the events from ``start`` to ``upto``."""
        window = state.matrix[self._row_of[column], start:upto]
        present = window[window != _NULL]
        return present.size, int(present.sum())

    def _leader(self, state: State, upto: int) -> int:
        """Index of the newest event among the first ``upto``; the last one of equals."""
        events = state.matrix[_EVENT, :upto]
        return upto - 1 - int(np.argmax(events[::-1]))

    def _latest(self, state: State, at: int, upto: int) -> list[float | str | None]:
        if not self.view.latest:
            return []
        if not upto:
            return [None] * len(self.view.latest)
        leader = self._leader(state, upto)
        if self._ttl_us is not None and int(state.matrix[_EVENT, leader]) <= at - self._ttl_us:
            return [None] * len(self.view.latest)
        first_number = 2 + len(self._sums)
        numbers = {f.name: _number(state.matrix[first_number + i, leader]) for i, f in enumerate(self._numbers)}
        texts = {f.name: state.texts[i][leader] for i, f in enumerate(self._texts)}
        return [numbers[f.name] if f.kind == "number" else texts[f.name] for f in self.view.latest]


def _value(aggregate: Aggregate, count: int, units_sum: int) -> float | None:
    if aggregate.op == "count":
        return float(count)
    total = float(units_sum) * aggregate.resolution
    if aggregate.op == "sum":
        return total
    return total / count if count else None


def _finite(column: str) -> pl.Expr:
    value = pl.col(column).cast(pl.Float64)
    return pl.when(value.is_finite()).then(value)


def _bits(values: pl.Series) -> np.ndarray:
    """Float64 bit patterns, nulls as NaN."""
    return np.asarray(values.cast(pl.Float64).fill_null(float("nan")).to_numpy(), np.float64).view(np.int64)


def _number(bits: np.int64) -> float | None:
    value = float(np.int64(bits).view(np.float64))
    return None if value != value else value
