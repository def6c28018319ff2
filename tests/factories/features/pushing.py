"""A process that pushes visits one by one: python -m tests.factories.features.pushing URI PRODUCER VISITS."""

from __future__ import annotations

import sys
from datetime import timedelta

import polars as pl

from features.builders import rolling
from features.online.materialize import push
from features.online.store import open_store
from features.types import INSTANT
from tests.factories.features.shops import START, spending_view

SHOPS = ("a", "b")
VIEW = spending_view(known_at="at", aggregates=rolling("spent", timedelta(days=30), "spent", ("count", "sum")))


def visits(number: int) -> pl.DataFrame:
    """One visit of each shop, of 1.0."""
    at = pl.lit(START + timedelta(minutes=number)).cast(INSTANT)
    return pl.DataFrame({"shop": SHOPS, "spent": [1.0, 1.0]}).with_columns(at=at)


def main(uri: str, producer: str, count: int) -> None:
    store = open_store(uri, "shop")
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(count):
        push(store, VIEW, visits(number), producer, number)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
