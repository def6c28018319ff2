"""Latency of the exported model and of the trained model on the same rows, on one thread of this machine.

It is CPU time of the thread, so that other work on the machine does not change it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from timeit import Timer

import numpy as np
import onnxruntime as ort
import torch

from features.encoder import Arrays

ROWS = (1, 1024)
"""Rows of a call: the smallest request, and the largest batch that serving forms."""
ROUNDS = 30
_MIN_ROUNDS = 3
_CALLS = 5
_MIN_ROUND_S = 1e-3
# An export must not wait long for the measurements of a large model.
_MAX_S = 1.0
_MICROSECONDS = 1e6


def measure_latencies(
    model: ort.InferenceSession, score: Callable[[Arrays], np.ndarray], arrays: Arrays
) -> dict[str, float]:
    """Measure both runtimes, in alternating rounds, so that a change of the core's clock rate affects both.

    Args:
        model: The exported model.
        score: The trained model's scores of encoded rows.
        arrays: Encoded rows, repeated as often as a batch needs them.

    Returns:
        Median microseconds of a call: "onnxruntime_us_1", "torch_us_1", "onnxruntime_us_1024", "torch_us_1024".
    """
    latency: dict[str, float] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for rows in ROWS:
            batch = {name: np.resize(value, (rows, value.shape[1])) for name, value in arrays.items()}
            inputs = {node.name: batch[node.name] for node in model.get_inputs()}
            calls = {"onnxruntime": partial(model.run, None, inputs), "torch": partial(score, batch)}
            latency |= {f"{name}_us_{rows}": value for name, value in _medians(calls).items()}
    finally:
        torch.set_num_threads(threads)
    return latency


def measure_calls(score: Callable[[Arrays], np.ndarray], arrays: Arrays) -> dict[str, float]:
    """Measure a model in another process by the clock, with the way there.

    Args:
        score: Scores of encoded rows.
        arrays: Encoded rows, repeated as often as a batch needs them.

    Returns:
        Median microseconds of a call: "python_us_1", "python_us_1024".
    """
    latency: dict[str, float] = {}
    for rows in ROWS:
        batch = {name: np.resize(value, (rows, value.shape[1])) for name, value in arrays.items()}
        latency[f"python_us_{rows}"] = float(np.median(Timer(partial(score, batch)).repeat(_CALLS, 1))) * _MICROSECONDS
    return latency


def format_latencies(latency: dict[str, float]) -> str:
    """The result of either measurement on one line; torch's time as a multiple of ONNX Runtime's."""
    if "python_us_1" in latency:
        calls = ", ".join(f"{latency[f'python_us_{rows}']:.0f} us for {rows:,} rows" for rows in ROWS)
        return f"a call of its process {calls}"
    shares = [
        f"{latency[f'torch_us_{rows}'] / latency[f'onnxruntime_us_{rows}']:.1f} times at {rows:,}" for rows in ROWS
    ]
    microseconds = ", ".join(f"{latency[f'onnxruntime_us_{rows}']:.0f} us for {rows:,} rows" for rows in ROWS)
    return f"ONNX Runtime {microseconds}; torch takes {', '.join(shares)}"


def _medians(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median microseconds of a call; a round has enough calls to fill a millisecond."""
    counts = {name: _calls_per_round(call) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    start = time.thread_time()
    for number in range(ROUNDS):
        if number >= _MIN_ROUNDS and time.thread_time() - start > _MAX_S:
            break
        for name, call in calls.items():
            seconds[name].append(_seconds(call, counts[name]) / counts[name])
    return {name: float(np.median(values)) * _MICROSECONDS for name, values in seconds.items()}


def _calls_per_round(call: Callable[[], object]) -> int:
    count = 1
    while _seconds(call, count) < _MIN_ROUND_S:
        count *= 2
    return count


def _seconds(call: Callable[[], object], count: int) -> float:
    return Timer(call, timer=time.thread_time).timeit(count)
