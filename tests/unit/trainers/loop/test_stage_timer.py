"""Seconds by stage, on a clock that the test sets."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from trainers.loop import stage_timer
from trainers.loop.stage_timer import GPU_SAMPLE_EVERY, StageTimer


@pytest.mark.parametrize(("device", "synchronizations"), [("cpu", 0), ("cuda", 4)])
def test_timed_steps_represent_all_steps(device: str, synchronizations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two periods of steps of 2 seconds; a GPU is synchronized at start and end of one step in each."""
    clock, synchronized = SimpleNamespace(now=0.0), []
    monkeypatch.setattr(stage_timer, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: synchronized.append(clock.now))
    timer = StageTimer(torch.device(device))
    timer.start_epoch({"data": 5.0})
    for _ in range(2 * GPU_SAMPLE_EVERY):
        timer.step()
        clock.now += 2.0
        timer.mark("forward")
    assert timer.seconds["forward"] == timer.elapsed - 5.0 == 4.0 * GPU_SAMPLE_EVERY
    assert timer.seconds["data"] == 5.0
    assert len(synchronized) == synchronizations
