"""Purges the rows of a training frame on the cluster, and refuses a split that leaves a part without rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import ray

from features.offline import purge
from features.offline.distributed_join import Reference
from features.offline.purge import BlockCounts, Purged
from features.offline.split_dates import RowTimes, require_rows
from features.split import Split, TimeSplit
from features.types import AS_OF, LABEL_KNOWN_AT

_CPUS = 0.5
_DATED_ROWS = 200_000
"""Rows from which working dates are computed."""


def purge_blocks(blocks: Sequence[Reference], split: Split) -> tuple[list[Reference], Purged]:
    """Purge the rows whose label was known too late, and those of groups that would straddle.

    Args:
        blocks: References to pyarrow tables of examples with their parts (purge.assign_parts).
        split: The split.

    Returns:
        References to blocks with the rows that are left, and how many were purged.

    Raises:
        DataError: No row is left in a part.
    """
    if not isinstance(split, TimeSplit):
        return list(blocks), Purged()
    counts: list[BlockCounts] = ray.get([_count.remote(block) for block in blocks])
    dated, known = (purge.add_counts(each) for each in zip(*((one.dated, one.known) for one in counts), strict=True))
    straddling = purge.straddling_groups(counts)
    if dated == known and straddling.is_empty():
        return list(blocks), Purged()
    shared = ray.put(straddling)
    keep: Any = _keep.options(num_returns=2)
    kept = [keep.remote(block, shared) for block in blocks]
    left = purge.add_counts(ray.get([numbers for _, numbers in kept]))
    require_rows(split, (dated, known, left), lambda: _load_times(blocks, sum(dated.values())))
    return [block for block, _ in kept], Purged.between(dated, known, left)


def _load_times(blocks: Sequence[Reference], rows: int) -> RowTimes:
    stride = max(1, rows // _DATED_ROWS)
    times = ray.get([_times.remote(block, stride) for block in blocks])
    as_of, known_at = (np.concatenate(each) for each in zip(*times, strict=True))
    return RowTimes(as_of, known_at, stride)


@ray.remote(num_cpus=_CPUS)
def _count(block: pa.Table) -> BlockCounts:
    return purge.count_block(pl.DataFrame(block))


@ray.remote(num_cpus=_CPUS)
def _keep(block: pa.Table, straddling: pl.DataFrame) -> tuple[pa.Table, dict[str, int]]:
    rows = purge.keep_rows(pl.DataFrame(block), straddling)
    return rows.to_arrow(), purge.count_parts(rows)


@ray.remote(num_cpus=_CPUS)
def _times(block: pa.Table, stride: int) -> tuple[np.ndarray, np.ndarray]:
    rows = pl.DataFrame(block.select([AS_OF, LABEL_KNOWN_AT])).gather_every(stride)
    as_of, known_at = (rows[column].dt.epoch("us").to_numpy() for column in (AS_OF, LABEL_KNOWN_AT))
    return as_of, known_at
