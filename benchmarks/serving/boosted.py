"""400 trees of LightGBM on the columns of the benchmark's model, as a bundle for rayloop."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.serving import model, samples
from cluster.values import Task
from features.encoder import Arrays
from trainers.config import ModelSpec, TrainConfig
from trainers.data.batches import EncodedRows
from trainers.input_spec import InputSpec
from trainers.trees.boosting import Boosting
from trainers.trees.tree_model import TreeModel

TREES = 400

_SPEC = ModelSpec(build="lightgbm", parameters={"rounds": TREES})
_TASK = Task(kind="binary", label="late")
_ROWS, _SEED, _CHECKED = 24_000, 3, 4_000


def write_bundle(folder: Path) -> tuple[Path, float]:
    """Train the trees and write their bundle.

    Returns:
        The folder, and the largest difference between the graph's scores and LightGBM's on rows that it was not
        trained on.
    """
    trees = _train()
    model.write_bundle(folder, _SEED, trees.to_onnx())
    columns = samples.sample(_CHECKED, _SEED + 1)
    difference = np.abs(model.scores(folder, columns) - trees.score(model.arrays(columns)))
    return folder, float(difference.max())


def _train() -> TreeModel:
    columns = samples.sample(_ROWS, _SEED)
    arrays = model.arrays(columns)
    labels = _labels(arrays)
    inputs = InputSpec.fit(model.ENCODER, _TASK, arrays, labels)
    rows = EncodedRows(arrays["numbers"], arrays["codes"], labels)
    boosting = Boosting(_SPEC, TrainConfig(), _TASK, inputs, rows, {name: part[:1] for name, part in arrays.items()})
    while not boosting.is_complete:
        boosting.grow_block()
    return TreeModel(_SPEC, _TASK, inputs, boosting.state(TREES))


def _labels(arrays: Arrays) -> np.ndarray:
    """Labels with effects of numbers, of their products and of both categories, and noise."""
    random = np.random.default_rng(_SEED)
    numbers, (carriers, origins) = arrays["numbers"], arrays["codes"].T
    effects = [random.normal(size=size) for size in model.ENCODER.cardinalities]
    logits = numbers[:, 0] + numbers[:, 1] * numbers[:, 2] + np.sin(2 * numbers[:, 3])
    logits = logits + effects[0][carriers] + 0.5 * effects[1][origins] + random.logistic(size=len(numbers))
    return (logits > 0).astype(np.float32)
