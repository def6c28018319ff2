"""Rows of each worker, in total and per step. Imports neither torch nor Ray."""

from __future__ import annotations


def shard_bounds(rows: int, rank: int, workers: int) -> tuple[int, int]:
    """First row and end of a worker's share of ``rows``; shares differ by at most one row."""
    return rows * rank // workers, rows * (rank + 1) // workers


def local_batch_rows(rows: int, batch_size: int, workers: int) -> int:
    """Rows of one worker's batch: its part of ``batch_size``, or of all rows if there are fewer."""
    return -(-min(rows, batch_size) // workers)


def epoch_steps(rows: int, local_rows: int, workers: int) -> int:
    """Steps of an epoch of ``rows``, each with ``local_rows`` of every worker."""
    return -(-rows // (local_rows * workers))
