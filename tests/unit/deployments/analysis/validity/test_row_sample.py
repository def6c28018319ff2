"""The sample of rows: bounded, thinned by key, with the newest labels."""

import numpy as np

from deployments.analysis.key_counts import key_hash
from deployments.analysis.validity.row_sample import RowArrays, RowSample


def rows(first: int, count: int) -> RowArrays:
    ids = np.array([f"q{i}" for i in range(first, first + count)], object)
    keys = np.array([key_hash(id) for id in ids], np.uint64)
    flags, numbers = np.zeros(count, bool), np.zeros(count)
    at_us, scores = numbers.astype(np.int64), numbers[:, None]
    return RowArrays(ids, keys, numbers + 0.5, flags, at_us, scores, scores, numbers + np.nan, numbers)


def test_row_sample_beyond_its_bound_keeps_a_sample_of_keys() -> None:
    sample = RowSample(1, most=100)
    for first in range(0, 1_000, 50):
        batch = rows(first, 50)
        sample.add(batch.select(sample.keeps(batch.keys)))
    kept = sample.arrays()
    assert 30 <= len(kept.ids) <= 100
    assert all(id in sample for id in kept.ids)
    # Early and late rows alike: whether a row stays depends on its key alone.
    assert {int(id[1:]) // 250 for id in kept.ids} == {0, 1, 2, 3}
    assert (kept.keys == np.array([key_hash(id) for id in kept.ids], np.uint64)).all()


def test_row_sample_keeps_labels_when_it_is_thinned() -> None:
    sample = RowSample(1, most=100)
    sample.add(rows(0, 60))
    assert sample.label("q3") is None
    ids = [f"q{i}" for i in range(60)]
    sample.set_labels(ids, [float(i) for i in range(60)], list(range(60)))
    batch = rows(60, 60)
    sample.add(batch.select(sample.keeps(batch.keys)))
    kept = sample.arrays()
    assert len(kept.ids) < 100
    labeled = kept.select(np.isfinite(kept.labels))
    assert labeled.labels.tolist() == [float(id[1:]) for id in labeled.ids] != []
