"""The same features by Polars alone, in its own process: running totals, and two as-of joins per window.

``python -m benchmarks.features.polars_alone FOLDER OUT SPEC`` prints {"seconds", "peak_mib"} as JSON. SPEC is a JSON
list of windows: name, keys, column, known_at, hours.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl

_AS_OF = "as_of"


def main() -> None:
    folder, out, spec = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    began = time.perf_counter()
    features = join_windows(folder, spec)
    seconds = time.perf_counter() - began
    features.write_parquet(out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak, "rows": features.height}))


def join_windows(folder: Path, spec: list[list[Any]]) -> pl.DataFrame:
    rows = pl.read_parquet(folder / "rows.parquet").with_row_index("row")
    totals: dict[tuple[Any, ...], pl.DataFrame] = {}
    features = []
    for name, keys, column, known_at, hours in spec:
        key = (tuple(keys), column, known_at)
        if key not in totals:
            totals[key] = _totals(folder, *key)
        features.append(_window(rows, totals[key], name, keys, known_at, hours))
    return pl.concat([rows.drop("row"), *features], how="horizontal")


def _totals(folder: Path, keys: tuple[str, ...], column: str, known_at: str) -> pl.DataFrame:
    """Sum and count of an entity's values up to each event, in known-at order."""
    events = pl.scan_parquet(folder / "events" / "*.parquet").select(*keys, known_at, column)
    value = pl.col(column)
    running = events.drop_nulls([*keys, known_at]).sort(known_at).select(
        *keys, known_at, value.fill_null(0.0).cum_sum().over(keys).alias("sum"),
        value.is_not_null().cum_sum().over(keys).alias("n"),
    )  # fmt: skip
    return running.collect()


def _window(
    rows: pl.DataFrame, totals: pl.DataFrame, name: str, keys: list[str], known_at: str, hours: int
) -> pl.DataFrame:
    def as_of(at: pl.Expr) -> pl.DataFrame:
        times = rows.select("row", *keys, at.alias("t")).sort("t")
        totals_then = times.join_asof(totals, left_on="t", right_on=known_at, by=keys, check_sortedness=False)
        return totals_then.sort("row").select(pl.col("sum", "n").fill_null(0))

    now, before = as_of(pl.col(_AS_OF)), as_of(pl.col(_AS_OF) - pl.duration(hours=hours))
    pair = pl.concat([now, before.rename({"sum": "sum0", "n": "n0"})], how="horizontal")
    n = (pl.col("n") - pl.col("n0")).cast(pl.Float64)
    mean = pl.when(n > 0).then((pl.col("sum") - pl.col("sum0")) / n)
    return pair.select(mean.alias(f"{name}_mean"), n.alias(f"{name}_count"))


if __name__ == "__main__":
    main()
