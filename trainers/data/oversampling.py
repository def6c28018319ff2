"""Synthetic rows of rare classes: SMOTE, and SMOTE-NC for categories (Chawla et al. 2002, "SMOTE: Synthetic Minority
Over-sampling Technique", sections 4.2 and 6.1)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cluster.errors import DataError, ProjectError
from cluster.values import Task
from features.encoder import Arrays
from trainers.config import Oversample, TrainConfig
from trainers.input_spec import CLIP_STD, InputSpec

MAX_ROWS = 10_000
"""Rows of a class, drawn at random, among which neighbors are sought: their number grows with its square."""
_CHUNK_ROWS = 256


class SyntheticRows(NamedTuple):
    """Encoded rows that lie between rows of one class."""

    arrays: Arrays
    labels: np.ndarray
    weights: np.ndarray | None
    logit_shift: tuple[float, ...]
    """What the changed shares of classes add to each logit."""


def check_classes(task: Task, config: TrainConfig) -> None:
    """Check that there are classes of which rows can be synthetic.

    Raises:
        ProjectError: The settings ask for synthetic rows, and each row of the task has not exactly one class.
    """
    if config.minority is not None and task.kind not in ("binary", "multiclass"):
        raise ProjectError("project.minority_needs_classes", task_kind=task.kind)


def synthesize(
    setting: Oversample,
    task: Task,
    inputs: InputSpec,
    arrays: Arrays,
    labels: np.ndarray,
    weights: np.ndarray | None,
    seed: int,
) -> SyntheticRows:
    """Synthetic rows for training rows.

    A row starts at a random row of its class and goes a random part of the way to one of its neighbors. A number that
    is missing at either end is that of the start; a category has the most frequent value of the neighbors.

    Args:
        setting: How many rows, and how many neighbors.
        task: The task.
        inputs: Statistics of the training rows, by which distances are measured.
        arrays: Encoded training rows.
        labels: Their classes.
        weights: Their weights; a synthetic row has the weight of the row from which it starts.
        seed: Seed of all draws.

    Raises:
        DataError: A class has a single row.
    """
    classes, label = max(2, task.outputs), labels.astype(np.int64)
    rows, total = np.bincount(label, minlength=classes), np.bincount(label, weights, classes)
    lacking = np.maximum(setting.ratio * total.max() - total, 0.0)
    counts = np.ceil(lacking * rows / np.maximum(total, np.finfo(float).tiny)).astype(int)
    if single := np.flatnonzero((counts > 0) & (rows == 1)).tolist():
        raise DataError("data.minority_single_row", classes=single)
    parts = [
        _between(setting, inputs, arrays, np.flatnonzero(label == k), counts[k], np.random.default_rng([seed, k]))
        for k in np.flatnonzero(counts).tolist()
    ]
    starts = np.concatenate([starts for starts, _ in parts]) if parts else np.empty(0, np.int64)
    made = {name: np.concatenate([arrays[name][:0], *(part[name] for _, part in parts)]) for name in arrays}
    drawn = None if weights is None else weights[starts]
    factor = (total + np.bincount(label[starts], drawn, classes)) / np.where(total > 0, total, 1.0)
    shift = np.log(np.where(total > 0, factor, 1.0))
    return SyntheticRows(
        made, labels[starts], drawn, tuple(shift.tolist() if task.wide else [float(shift[1] - shift[0])])
    )


def _between(
    setting: Oversample, inputs: InputSpec, arrays: Arrays, rows: np.ndarray, count: int, random: np.random.Generator
) -> tuple[np.ndarray, Arrays]:
    """``count`` synthetic rows between ``rows`` of one class, and the rows from which they start."""
    rows = random.permutation(rows)[:MAX_ROWS]
    numbers, codes = arrays["numbers"][rows], arrays["codes"][rows]
    neighbors = _nearest(numbers, codes, inputs, min(setting.neighbors, len(rows) - 1))
    start = random.integers(len(rows), size=count)
    other = neighbors[start, random.integers(neighbors.shape[1], size=count)]
    with np.errstate(invalid="ignore"):
        way = random.random((count, 1), np.float32) * (numbers[other] - numbers[start])
    made = numbers[start] + np.where(np.isfinite(way), way, np.float32(0))
    return rows[start], {"numbers": made, "codes": _most_frequent(codes[neighbors])[start]}


def _nearest(numbers: np.ndarray, codes: np.ndarray, inputs: InputSpec, count: int) -> np.ndarray:
    """Positions of the nearest other rows of each row, [n, count].

    Distances are Euclidean in standardized numbers; categories that differ count as the median of the numbers' standard
    deviations. Not by matrix products, whose last bits depend on the number of threads.
    """
    from scipy.spatial.distance import cdist  # half a second, and projects import this module

    scaled = (numbers.astype(np.float64) - inputs.mean) / inputs.std
    scaled = np.clip(np.nan_to_num(scaled, nan=0.0, posinf=CLIP_STD, neginf=-CLIP_STD), -CLIP_STD, CLIP_STD)
    penalty = float(np.median(scaled.std(axis=0))) if scaled.shape[1] else 1.0
    found = np.empty((len(scaled), count), np.int64)
    for first in range(0, len(scaled), _CHUNK_ROWS):
        chunk = slice(first, first + _CHUNK_ROWS)
        distances = np.zeros((len(scaled[chunk]), len(scaled)))
        if scaled.shape[1]:
            distances += cdist(scaled[chunk], scaled, "sqeuclidean")
        if codes.shape[1]:
            distances += penalty**2 * codes.shape[1] * cdist(codes[chunk], codes, "hamming")
        distances[np.arange(len(distances)), first + np.arange(len(distances))] = np.inf
        found[chunk] = np.argpartition(distances, count - 1, axis=1)[:, :count]
    return found


def _most_frequent(codes: np.ndarray) -> np.ndarray:
    """The most frequent of each row's codes [n, neighbors, c], [n, c]; of several the lowest."""
    ordered = np.sort(codes, axis=1)
    times = (ordered[:, :, None] == ordered[:, None]).sum(axis=2)
    return np.take_along_axis(ordered, times.argmax(axis=1)[:, None], axis=1)[:, 0]
