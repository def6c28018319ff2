"""The gain of a retraining: its figures, and how often its interval misses the true one at any look."""

from __future__ import annotations

import numpy as np
import pytest

from monitoring.retraining.retrain_gain import MIN_ROWS, PairedLosses, WindowGain, summarize_gains

WINDOW = WindowGain(version="7", replaced="6", promoted=10.0, window=0.0, losses=PairedLosses())


def losses(rng: np.random.Generator, keys: int, repeats: int, gain: float) -> PairedLosses:
    """Losses that differ by ``gain`` on average; rows of one key share most of their difference."""
    owner = np.repeat(np.arange(keys), repeats)
    shared, own = rng.normal(0, 1, keys)[owner], rng.normal(0, 0.3, keys * repeats)
    before = rng.exponential(1.0, keys * repeats)
    return PairedLosses.from_losses(before - gain + shared + own, before, owner + rng.integers(10**9))


def test_gain_has_the_means_of_both_versions_and_covers_their_difference() -> None:
    new, old = np.tile([0.1, 0.3], 200), np.tile([0.2, 0.3], 200)
    windows = [
        WINDOW.model_copy(update={"window": float(i), "losses": PairedLosses.from_losses(*part)})
        for i, part in enumerate([(new[:100], old[:100], np.arange(100)), (new[100:], old[100:], np.arange(300))])
    ]
    (gain,) = summarize_gains(windows)
    assert (gain.version, gain.replaced, gain.rows) == ("7", "6", 400)
    assert (gain.loss, gain.replaced_loss) == pytest.approx((0.2, 0.25))
    assert gain.low is not None
    assert gain.high is not None
    assert gain.low < -0.05 < gain.high < 0


def test_few_rows_or_one_key_have_no_interval() -> None:
    rng = np.random.default_rng(0)
    assert losses(rng, MIN_ROWS - 1, 1, 0.1).interval() is None
    assert losses(rng, MIN_ROWS, 1, 0.1).interval() is not None
    assert losses(rng, 1, 5_000, 0.1).interval() is None
    assert PairedLosses().interval() is None


def test_windows_without_labels_are_no_gain_and_versions_stay_apart() -> None:
    rng = np.random.default_rng(0)
    later = {"version": "9", "replaced": "7", "promoted": 20.0}
    windows = [
        WINDOW.model_copy(update={**later, "losses": losses(rng, 50, 1, 0.0)}),
        WINDOW.model_copy(update={"window": 1.0, "losses": losses(rng, 40, 1, 0.0)}),
        WINDOW,
        WINDOW.model_copy(update={"version": "5", "replaced": "4", "promoted": 1.0}),
    ]
    assert [(gain.version, gain.rows) for gain in summarize_gains(windows)] == [("7", 40), ("9", 50)]


@pytest.mark.parametrize(("keys", "repeats"), [(40, 1), (40, 5)])
def test_interval_misses_the_true_gain_at_any_look_in_at_most_its_share(keys: int, repeats: int) -> None:
    rng, misses = np.random.default_rng(1), 0
    for _ in range(300):
        total, missed = PairedLosses(), False
        for _ in range(40):
            total += losses(rng, keys, repeats, 0.1)
            interval = total.interval()
            missed |= interval is not None and not interval[0] <= -0.1 <= interval[1]
        misses += missed
    assert misses <= 0.05 * 300
