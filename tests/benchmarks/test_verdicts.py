"""The benchmark of the verdicts at its full size: seeded, the same on every machine."""

import pytest

from benchmarks.serving.verdicts import ALPHA, ROLLOUTS, rows_of_equal_variants


@pytest.mark.slow
def test_rollouts_of_equal_variants_are_aborted_at_most_at_rate_alpha() -> None:
    assert ROLLOUTS == 2_000
    rows = rows_of_equal_variants()
    assert {row["met"] for row in rows} == {True}
    assert max(row["rayloop"] for row in rows) <= ALPHA
    peeked = [row["peer_value"] for row in rows if "peeking" in row["peer"]]
    assert min(peeked) > 3 * ALPHA, "a simulation that cannot go wrong shows nothing"
