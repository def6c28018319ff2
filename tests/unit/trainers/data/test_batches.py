"""Loaders: an epoch has every row, in the same order for any number of workers."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.data.batches import EncodedRows, MemoryLoader, MemoryValidationLoader
from trainers.data.device_transfer import DeviceRows
from trainers.data.sharding import shard_bounds
from trainers.data.streaming import concat_rows

ROWS = st.integers(1, 90)
WORKERS = st.integers(1, 5)
BATCH = st.integers(5, 40)


def _numbered(count: int) -> EncodedRows:
    return EncodedRows(
        np.zeros((count, 1), np.float32), np.zeros((count, 0), np.int64), np.arange(count, dtype=np.float32)
    )


def _weighted(count: int) -> EncodedRows:
    """Numbered rows whose weight is their number plus a half."""
    return replace(_numbered(count), weights=np.arange(count, dtype=np.float32) + 0.5)


def _epoch(count: int, batch: int, workers: int, number: int, seed: int = 0) -> list[list[list[float]]]:
    """Labels by worker and step."""
    feeds = [MemoryLoader(_numbered(count), batch, seed, rank, workers) for rank in range(workers)]
    assert len({feed.steps for feed in feeds}) == 1
    return [[b.labels.tolist() for b in feed.epoch(number)] for feed in feeds]


@given(ROWS, BATCH, WORKERS, st.integers(1, 3))
def test_epoch_covers_all_rows_in_equal_batches(count: int, batch: int, workers: int, number: int) -> None:
    shown = _epoch(count, batch, workers, number)
    sizes = {len(labels) for worker in shown for labels in worker}
    assert len(sizes) == 1
    assert len({len(worker) for worker in shown}) == 1
    rows = [row for worker in shown for labels in worker for row in labels]
    assert set(rows) == set(range(count))
    assert len(rows) - count < sizes.pop() * workers or count < workers


@given(st.integers(1, 8), WORKERS)
def test_step_has_the_same_rows_for_any_number_of_workers(steps: int, workers: int) -> None:
    batch = 12 * workers
    alone, together = _epoch(steps * batch, batch, 1, 1), _epoch(steps * batch, batch, workers, 1)
    for step in range(steps):
        assert alone[0][step] == [row for worker in together for row in worker[step]]


@given(st.integers(50, 90))
def test_order_differs_by_epoch_and_seed_and_repeats(count: int) -> None:
    assert _epoch(count, 10, 1, 1) == _epoch(count, 10, 1, 1)
    assert _epoch(count, 10, 1, 1) != _epoch(count, 10, 1, 2)
    assert _epoch(count, 10, 1, 1) != _epoch(count, 10, 1, 1, seed=1)


@given(ROWS, BATCH, st.integers(0, 3), st.booleans())
def test_device_rows_make_the_same_batches(count: int, batch: int, first: int, weighted: bool) -> None:
    rows = (_weighted if weighted else _numbered)(count)
    feed = MemoryLoader(rows, batch, seed=0)
    there = feed.with_source(DeviceRows(rows, torch.device("cpu")))
    assert (there.rows, there.steps) == (feed.rows, feed.steps)
    for ours, theirs in zip(feed.epoch(1, first), there.epoch(1, first), strict=True):
        assert (ours.weights is not None) == weighted
        assert all(torch.equal(a, b) for a, b in zip(ours.tensors, theirs.tensors, strict=True))


def test_weights_stay_with_their_rows_in_batches_parts_and_samples() -> None:
    rows = _weighted(20)
    for batch in MemoryLoader(rows, 8, seed=0).epoch(1):
        for part in batch.split(3):
            assert part.weights is not None
            assert torch.equal(part.weights, part.labels + 0.5)
    thin = rows.thin(5)
    assert thin.weights is not None
    assert thin.weights.tolist() == (thin.labels + 0.5).tolist()
    assert rows.nbytes == _numbered(20).nbytes + 80


def test_streamed_batches_and_rows_have_weights_where_there_are_some() -> None:
    arrays = {"numbers": np.zeros((2, 1), np.float32), "labels": np.ones(2, np.float32)}
    assert concat_rows([arrays], 1, 0).weights is None
    weights = concat_rows([arrays | {"weights": np.array([0.5, 2.0], np.float32)}] * 2, 1, 0).weights
    assert weights is not None
    assert weights.tolist() == [0.5, 2.0, 0.5, 2.0]


@given(st.integers(0, 200), st.integers(1, 9))
def test_shard_bounds_partition_the_rows(count: int, workers: int) -> None:
    shares = [shard_bounds(count, rank, workers) for rank in range(workers)]
    assert shares[0][0] == 0
    assert shares[-1][1] == count
    assert all(left[1] == right[0] for left, right in pairwise(shares))
    assert max(end - start for start, end in shares) - min(end - start for start, end in shares) <= 1


@given(ROWS, WORKERS)
def test_validation_loader_yields_each_row_once_in_place(count: int, workers: int) -> None:
    places = {}
    for rank in range(workers):
        for first, batch in MemoryValidationLoader(_numbered(count), rank, workers).batches():
            for offset, label in enumerate(batch.labels.tolist()):
                assert first + offset not in places
                places[first + offset] = label
    assert places == {i: float(i) for i in range(count)}


@given(st.integers(1, 500), st.integers(1, 50))
def test_thin_returns_at_most_count_rows(count: int, most: int) -> None:
    sample = _numbered(count).thin(most)
    assert 1 <= len(sample) <= most
    assert sample.labels[0] == 0


def test_loader_by_default_is_that_of_the_first_worker() -> None:
    default, first, second = (
        [batch.labels.tolist() for batch in MemoryLoader(_numbered(8), 4, 0, *rank, workers=2).epoch(1)]
        for rank in ((), (0,), (1,))
    )
    assert default == first != second
