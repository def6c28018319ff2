"""The newest rows of a log that exceeds memory."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from rayloop.stages import skew_check


@pytest.mark.parametrize("count", [1, 40, 5_000])
def test_newest_rows_of_an_unordered_log_are_sorted_and_bounded_in_memory(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(count)
    log = pl.DataFrame({"at": draw.integers(0, 300, 2_000), "row": np.arange(2_000)})
    sizes: list[int] = []
    concat = pl.concat
    monkeypatch.setattr(
        pl, "concat", lambda frames: sizes.append(sum(frame.height for frame in frames)) or concat(frames)
    )
    newest = skew_check.newest_rows(log.iter_slices(20), count)
    assert newest.equals(log.sort("at", maintain_order=True).tail(count))
    assert max(sizes) <= 2 * count + 20
