"""Differences of clipped losses: what is kept, up to how many rows, and how parts merge."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.values import Task
from deployments.analysis.clipped_differences import CLIP, MOST_ROWS, ClippedDifferences
from tests.factories.deployments.tasks import BINARY


def of_rows(rows: int) -> ClippedDifferences:
    return ClippedDifferences.from_losses(BINARY, np.zeros(rows), np.ones(rows), "loss")


def test_clipped_differences_count_a_loss_as_at_most_the_clip() -> None:
    champion, challenger = np.array([0.0, 9.0, 9.0, 1.0]), np.array([9.0, 0.0, 8.0, 2.5])
    differences = ClippedDifferences.from_losses(BINARY, champion, challenger, "loss")
    assert differences == ClippedDifferences(n=4, values=(1.0, -1.0, 0.0, 1.5 / CLIP))


@pytest.mark.parametrize(("rows", "kept"), [(MOST_ROWS, MOST_ROWS), (MOST_ROWS + 1, 0)])
def test_clipped_differences_are_kept_up_to_a_number_of_rows(rows: int, kept: int) -> None:
    assert (of_rows(rows).n, len(of_rows(rows).values)) == (rows, kept)
    merged = of_rows(20) + of_rows(rows - 20)
    assert (merged.n, len(merged.values)) == (rows, kept)
    # What was dropped never comes back.
    assert (of_rows(1) + of_rows(MOST_ROWS + 1)).values == ()


def test_clipped_differences_of_losses_that_are_not_in_nats_are_not_kept() -> None:
    losses = np.ones(3)
    for task, metric in ((Task(kind="regression", label="y"), "loss"), (BINARY, "accuracy")):
        assert ClippedDifferences.from_losses(task, losses, losses, metric) == ClippedDifferences(n=3)
