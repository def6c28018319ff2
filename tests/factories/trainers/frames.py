"""Small frames with every kind of input and task; nothing here imports torch or Ray."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from cluster.values import Task, TaskKind
from features.definitions import Column

COLUMNS = (
    Column(name="plain", kind="number"),
    Column(name="heavy", kind="number"),
    Column(name="gappy", kind="number"),
    Column(name="color", kind="category"),
    Column(name="pixels", kind="tensor", shape=(2, 2)),
)
COLORS = ("blue", "green", "red")
TASKS: dict[TaskKind, Task] = {
    "binary": Task(kind="binary", label="late"),
    "multiclass": Task(kind="multiclass", label="which", classes=("low", "middle", "high")),
    "regression": Task(kind="regression", label="price"),
    "multilabel": Task(kind="multilabel", label="tags", classes=("high", "blue")),
}


def frame(kind: TaskKind = "binary", rows: int = 600, seed: int = 0) -> pa.Table:
    """Labels follow from "plain", "color" and "pixels"; the last fifth is for validation."""
    random = np.random.default_rng(seed)
    plain, heavy = random.normal(size=rows), random.standard_cauchy(size=rows)
    gappy = np.where(random.random(rows) < 0.3, np.nan, random.normal(size=rows))
    color = random.integers(4, size=rows)
    pixels = random.normal(size=(rows, 4)).astype(np.float32)
    signal = plain + (color == 1) - (color == 2) + pixels.sum(axis=1) / 2 + 0.3 * random.normal(size=rows)
    labels = {
        "binary": (signal > 0).astype(float),
        "multiclass": np.digitize(signal, [-0.7, 0.7]).astype(float),
        "regression": 1000 + 50 * signal,
        "multilabel": _lists(np.column_stack([signal > 0, color == 0]).astype(float)),
    }[kind]
    names = [*COLORS, None]
    return pa.table(
        {
            "plain": plain,
            "heavy": heavy,
            "gappy": pa.array(gappy, from_pandas=True),
            "color": pa.array([names[i] for i in color], pa.string()),
            "pixels": pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel()), 4),
            "label": labels,
            "split": np.where(np.arange(rows) < rows * 4 // 5, "train", "validation"),
            "as_of": pa.array(np.arange(rows) * 86_400_000_000, pa.timestamp("us", "UTC")),
            "id": np.arange(rows),
        }
    )


def _lists(values: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def part(table: pa.Table, split: str) -> pa.Table:
    return table.filter(pa.compute.equal(table["split"], split))
