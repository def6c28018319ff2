"""Whether what a model returns are the scores of its task. Pure."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from cluster.errors import DataError
from cluster.values import Task

_ROUNDING = 1e-6
_SUM = 1e-3
"""How far the probabilities of a row may be from 1 in sum."""


def read_scores(task: Task, output: object, rows: int) -> np.ndarray:
    """Return a Python model's output as scores, float32, shaped as cluster.values.Task describes.

    Args:
        task: The model's task.
        output: What ``predict`` returned: an array of NumPy, of Arrow, or a list.
        rows: Rows that it got.

    Raises:
        DataError: They are not the task's scores.
    """
    arrow = isinstance(output, pa.Array | pa.ChunkedArray)
    try:
        scores = np.asarray(output.to_pylist() if arrow else output)  # type: ignore[attr-defined]
    except ValueError as error:
        raise DataError("data.python_scores", kind=task.kind, reason=str(error).splitlines()[0]) from error
    expected = (rows, task.outputs) if task.wide else (rows,)
    if scores.shape != expected:
        raise DataError("data.python_scores", kind=task.kind, reason=f"shape {scores.shape} in place of {expected}")
    if scores.dtype.kind not in "fiub":
        raise DataError("data.python_scores", kind=task.kind, reason=f"values of type {scores.dtype}")
    with np.errstate(over="ignore"):
        scores = scores.astype(np.float32)
    if fault := find_score_fault(task, scores):
        raise DataError("data.python_scores", kind=task.kind, reason=fault)
    return scores


def find_score_fault(task: Task, scores: np.ndarray) -> str:
    """Say why an array of the right shape does not hold a task's scores; empty if it does."""
    finite = np.isfinite(scores)
    if not finite.all():
        row = int(np.argmin(finite.reshape(len(scores), -1).all(axis=1)))
        return f"no finite number for row {row}"
    if task.kind != "regression":
        low, high = float(scores.min()), float(scores.max())
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            return f"values from {low:.4g} to {high:.4g} are no probabilities"
    if task.kind == "multiclass" and float(np.abs(scores.sum(axis=1) - 1).max()) > _SUM:
        return "the probabilities of a row do not add up to 1"
    return ""
