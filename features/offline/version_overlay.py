"""Versions of rows that no range of positions gives: later replaced ones, and those known out of order. Pure.

The other versions are in the order of their times, so that what a row sees of them is a range
(features/offline/point_in_time.py). For each row, the few of this module that lie in its windows are looked at one by
one: a pair of a row and a version that it sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from features.events.event_history import FOREVER, KNOWN_AT, SEEN_FROM, SEEN_UNTIL
from features.offline.range_queries import range_ends

MAX_PAIRS = 1 << 24
"""Pairs that are looked at together; more are split by rows."""
ORDER = "__order"
"""Column with the place of an event among all events and versions of the view."""
_CHAIN, _ALIKE = "__chain", "__alike"


class Pairs(NamedTuple):
    """Rows, ascending, each with a version that it sees; positions, int64 [pairs]."""

    rows: np.ndarray
    versions: np.ndarray

    def since(self, times: np.ndarray, limits: np.ndarray) -> Pairs:
        """Return the pairs whose version's time is later than the row's limit."""
        later = times[self.versions] > limits[self.rows]
        return Pairs(self.rows[later], self.versions[later])


@dataclass(frozen=True)
class VersionOverlay:
    """Versions sorted by entity and time, or by entity and event time; all arrays int64 [versions]."""

    starts: np.ndarray
    """Entity c has the positions ``starts[c]`` to ``starts[c + 1]``. int64 [entities + 2]."""
    times: np.ndarray
    seen_from: np.ndarray
    seen_until: np.ndarray
    order: np.ndarray
    """Place of each version among all events of the view."""

    @classmethod
    def build(cls, versions: pl.DataFrame, codes: pl.Series, times: str, entities: int) -> VersionOverlay:
        """Build it from sorted versions, the code of each one's entity, and the column to sort by."""
        starts = np.searchsorted(codes.to_numpy(), np.arange(entities + 2))
        columns = (
            versions.get_column(name).cast(pl.Int64).to_numpy() for name in (times, SEEN_FROM, SEEN_UNTIL, ORDER)
        )
        return cls(starts, *columns)

    def ranges(self, codes: np.ndarray, after: np.ndarray, until: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions [low, high) of an entity's versions whose time is in (after, until]."""
        low, high = self.starts[codes], self.starts[codes + 1]
        return range_ends(self.times, low, high, after), range_ends(self.times, low, high, until)

    def pairs(self, low: np.ndarray, high: np.ndarray, times: np.ndarray) -> Pairs:
        """Pair each row with the versions in [low, high) that it sees at its time."""
        counts = high - low
        rows = np.repeat(np.arange(counts.size), counts)
        versions = np.arange(rows.size) - np.repeat(np.cumsum(counts) - counts - low, counts)
        seen = self._is_seen(versions, times[rows])
        return Pairs(rows[seen], versions[seen])

    def newest(
        self, codes: np.ndarray, times: np.ndarray, event_times: np.ndarray, order: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the rows that see a version with a newer event than the one that they have.

        Args:
            codes: Entity of each row.
            times: Time of each row.
            event_times: Time of the newest event that a row has so far.
            order: Place of that event; -1 without one.

        Returns:
            Positions of these rows, and of their versions; ``times`` of this overlay are event times.
        """
        low, at = self.ranges(codes, np.full(codes.size, np.iinfo(np.int64).min), times)
        rows, at, hits = np.arange(codes.size), at - 1, []
        while rows.size:
            here = at >= low[rows]
            here[here] &= self._is_newer(at[here], event_times[rows[here]], order[rows[here]])
            rows, at = rows[here], at[here]
            seen = self._is_seen(at, times[rows])
            hits.append((rows[seen], at[seen]))
            rows, at = rows[~seen], at[~seen] - 1
        found, versions = zip(*hits, strict=True) if hits else ((rows,), (at,))
        return np.concatenate(found), np.concatenate(versions)

    def _is_seen(self, versions: np.ndarray, times: np.ndarray) -> np.ndarray:
        return np.asarray((self.seen_from[versions] <= times) & (self.seen_until[versions] > times))

    def _is_newer(self, versions: np.ndarray, event_times: np.ndarray, order: np.ndarray) -> np.ndarray:
        own = self.times[versions]
        tie = (own == event_times) & (self.order[versions] > order)
        return np.asarray((order < 0) | (own > event_times) | tie)


def merge_equal_versions(history: pl.DataFrame, ties: Sequence[str]) -> pl.DataFrame:
    """Merge versions that follow each other with equal values: a correction of columns that the view does not use.

    Args:
        history: A history with versions.
        ties: Columns that decide which event is the newest; rows that are equal in them keep their places, and so are
            not merged with another row between them. Empty when no place matters.
    """
    late = (pl.col(SEEN_UNTIL) != FOREVER) | (pl.col(SEEN_FROM) > pl.col(KNOWN_AT))
    indexed = history.with_row_index(ORDER)
    versions = indexed.filter(late)
    if versions.is_empty():
        return history
    values = [name for name in history.columns if name not in (SEEN_FROM, SEEN_UNTIL)]
    ordered = versions.sort(*values, SEEN_FROM, maintain_order=True)
    is_other = pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift()) for name in values)
    begins = is_other | pl.col(SEEN_FROM).ne_missing(pl.col(SEEN_UNTIL).shift())
    chained = ordered.with_columns(begins.cum_sum().alias(_CHAIN))
    if ties:
        alike = indexed.join(versions.select(ties).unique(), on=list(ties), how="semi").group_by(ties).len(_ALIKE)
        counted = chained.join(alike, on=list(ties), how="left", maintain_order="left")
        # A row of its own chain, when others have the same times.
        apart = pl.when(pl.col(_ALIKE) > pl.len().over(_CHAIN)).then(-1 - pl.col(ORDER).cast(pl.Int64))
        chained = counted.with_columns(apart.otherwise(pl.col(_CHAIN)).alias(_CHAIN))
    chains = chained.group_by(_CHAIN).agg(pl.col(*values, ORDER, SEEN_FROM).first(), pl.col(SEEN_UNTIL).last())
    merged = pl.concat([indexed.filter(~late), chains.select(indexed.columns)])
    return merged.sort(ORDER).drop(ORDER)


def split_in_order(events: pl.DataFrame, code: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split events into those of which a row sees a range, and the others.

    A row sees a range of versions that nothing replaces, if none of them becomes known before an earlier one.

    Args:
        events: Events with versions, sorted by entity and time.
        code: Column with the entity.
    """
    indexed = events.with_row_index(ORDER)
    lasting = indexed.filter(pl.col(SEEN_UNTIL) == FOREVER)
    following = pl.col(SEEN_FROM).shift(-1).fill_null(FOREVER).cum_min(reverse=True).over(code)
    in_order = lasting.filter(pl.col(SEEN_FROM) <= following)
    return in_order, indexed.join(in_order.select(ORDER), on=ORDER, how="anti", maintain_order="left")
