"""How long the exported model and the training module take for the same rows, on one thread of this machine.

Time is the thread's own: whoever else works on the machine while a version is made changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from features.encoder import Arrays

ROWS = (1, 1024)
"""Rows a request: the smallest, and the largest batch that serving forms."""
ROUNDS = 30
_MIN_ROUNDS = 3
_MIN_ROUND_S = 1e-3
# An export shall not wait for a large model's figures.
_ENOUGH_S = 1.0
_MICROSECONDS = 1e6


def latencies(model: ort.InferenceSession, scored: nn.Module, arrays: Arrays) -> dict[str, float]:
    """Median microseconds for a call: "onnxruntime_us_1", "torch_us_1", "onnxruntime_us_1024", "torch_us_1024".

    Both take the same rows, repeated from ``arrays``, turn by turn, so that a change of the core's clock rate hits both.
    """
    found: dict[str, float] = {}
    with _one_thread():
        for rows in ROWS:
            batch = {name: np.resize(value, (rows, value.shape[1])) for name, value in arrays.items()}
            calls = {"onnxruntime": _onnx_call(model, batch), "torch": _torch_call(scored, batch)}
            found |= {f"{name}_us_{rows}": value for name, value in _medians(calls).items()}
    return found


def runtime_line(found: dict[str, float]) -> str:
    """The comparison in words: what torch takes, as a multiple of ONNX Runtime's time."""
    shares = [f"{found[f'torch_us_{rows}'] / found[f'onnxruntime_us_{rows}']:.1f} times at {rows:,}" for rows in ROWS]
    alone = ", ".join(f"{found[f'onnxruntime_us_{rows}']:.0f} us for {rows:,} rows" for rows in ROWS)
    return f"ONNX Runtime {alone}; torch takes {', '.join(shares)}"


def _onnx_call(model: ort.InferenceSession, batch: Arrays) -> Callable[[], object]:
    fed = {node.name: batch[node.name] for node in model.get_inputs()}
    return lambda: model.run(None, fed)


def _torch_call(scored: nn.Module, batch: Arrays) -> Callable[[], object]:
    def call() -> object:
        with torch.inference_mode():
            return scored(torch.from_numpy(batch["numbers"]), torch.from_numpy(batch["codes"])).numpy()

    return call


def _medians(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Microseconds a call; a round has as many calls as fill a millisecond."""
    counts = {name: _calls_a_round(call) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    began = time.thread_time()
    for done in range(ROUNDS):
        if done >= _MIN_ROUNDS and time.thread_time() - began > _ENOUGH_S:
            break
        for name, call in calls.items():
            seconds[name].append(_seconds(call, counts[name]) / counts[name])
    return {name: float(np.median(values)) * _MICROSECONDS for name, values in seconds.items()}


def _calls_a_round(call: Callable[[], object]) -> int:
    count = 1
    while _seconds(call, count) < _MIN_ROUND_S:
        count *= 2
    return count


def _seconds(call: Callable[[], object], count: int) -> float:
    began = time.thread_time()
    for _ in range(count):
        call()
    return time.thread_time() - began


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
