"""How many rows each worker has, in all and in a step."""

from __future__ import annotations


def share_of(rows: int, rank: int, workers: int) -> tuple[int, int]:
    """First row and end of a worker's share; shares differ by at most one row."""
    return rows * rank // workers, rows * (rank + 1) // workers


def local_batch(rows: int, batch_size: int, workers: int) -> int:
    """Rows of one worker's batch: its part of ``batch_size``, or of all rows when there are fewer."""
    return -(-min(rows, batch_size) // workers)
