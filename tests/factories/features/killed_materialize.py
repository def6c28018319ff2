"""A process that materializes a view in many chunks, and is killed in the middle of a given one (0: of none)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta

import polars as pl

from features.online import materialize
from features.online.store import Change, OnlineStore, open_store
from features.types import INSTANT
from tests.factories.features.views import EPOCH, VIEW

EVENTS = 4_000


def events() -> pl.DataFrame:
    minutes = pl.Series(range(EVENTS))
    at = pl.lit(EPOCH).cast(INSTANT) + pl.duration(minutes=minutes)
    entity = (minutes * 7 % 101).cast(pl.String)
    return pl.DataFrame({"a": entity, "x": minutes / 10, "c": entity}).select(
        "a", "x", "c", b=pl.lit("q"), happened=at, known=at + timedelta(minutes=3)
    )


class KillingStore:
    """Wraps a store; kills the process when the ``last`` update is half done."""

    def __init__(self, store: OnlineStore, last: int) -> None:
        self._store, self._left = store, last
        self.get_many = store.get_many

    def update(self, name: bytes, keys: Sequence[bytes], change: Change) -> None:
        self._left -= 1
        self._store.update(
            name, keys, lambda values: KillingDict(change(values)) if self._left == 0 else change(values)
        )


class KillingDict(dict):
    """A dict whose iteration kills the process after the first half."""

    def items(self):
        for i, item in enumerate(super().items()):
            if i > len(self) // 2:
                os.kill(os.getpid(), signal.SIGKILL)
            yield item


if __name__ == "__main__":
    materialize.CHUNK_EVENTS = 500
    store = KillingStore(open_store(sys.argv[1], "shop"), int(sys.argv[2]))
    materialize.materialize(store, VIEW, events(), 1 << 60)
