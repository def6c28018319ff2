"""LightGBM on the same frame: the baseline that a model has to beat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.values import Task
from features.encoder import MISSING_CODE, Encoder
from features.types import AS_OF, LABEL
from trainers import metrics
from trainers.data.encoding_task import label_array
from trainers.scoring.onnx_scorer import metrics_by_time

TREES = 400
PARAMETERS: dict[str, Any] = {
    "learning_rate": 0.03,
    "num_leaves": 31,
    "min_data_in_leaf": 100,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "feature_fraction": 0.8,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
    "num_threads": 1,
    "seed": 0,
}


def evaluate_baseline(
    task: Task, encoder: Encoder, train: pa.Table, test: pa.Table, columns: Sequence[str] | None
) -> dict[str, Any]:
    """Fit the baseline and measure it.

    Args:
        task: The task.
        encoder: The encoder of the feature set.
        train: Rows to fit on.
        test: Rows to measure on.
        columns: Features to use; None uses all.

    Returns:
        ``metrics`` on ``test``, and the same by month as ``months``.
    """
    scores, labels = baseline_scores(task, encoder, train, test, columns=columns), label_array(test[LABEL])
    months = metrics_by_time(task, scores, labels, test[AS_OF])
    return {"metrics": metrics.evaluate(task, scores, labels), "months": months}


def baseline_scores(
    task: Task,
    encoder: Encoder,
    train: pa.Table,
    test: pa.Table,
    *,
    columns: Sequence[str] | None = None,
    trees: int = TREES,
) -> np.ndarray:
    """Fit gradient-boosted trees and score rows with them.

    Args:
        task: The task.
        encoder: The encoder of the feature set.
        train: Rows to fit on.
        test: Rows to score.
        columns: Features to use; None uses all.
        trees: Boosting rounds.

    Returns:
        Scores of ``test`` (cluster.values.Task).
    """
    # LightGBM takes more than a second to import, and only the process that fits needs it.
    import lightgbm as lgb

    if task.kind == "multilabel":
        each = [
            baseline_scores(binary_task, encoder, rows, test, columns=columns, trees=trees)
            for binary_task, rows in _binary_tasks(task, train)
        ]
        return np.column_stack(each)
    chosen = encoder if columns is None else select_columns(encoder, columns)
    options = {**PARAMETERS, "objective": task.kind}
    if task.kind == "multiclass":
        options["num_class"] = task.outputs
    categorical = list(range(chosen.width, chosen.width + len(chosen.categories)))
    rows = lgb.Dataset(_matrix(chosen, train), np.asarray(train[LABEL]), categorical_feature=categorical)
    model = lgb.train(options, rows, num_boost_round=trees)
    return np.asarray(model.predict(_matrix(chosen, test), num_threads=PARAMETERS["num_threads"]))


def select_columns(encoder: Encoder, columns: Sequence[str]) -> Encoder:
    """The encoder of some of its columns, in its own order."""
    selected = tuple(column for column in encoder.columns if column.name in columns)
    vocabularies = {c.name: encoder.vocabularies[c.name] for c in selected if c.kind == "category"}
    return Encoder(columns=selected, vocabularies=vocabularies)


def _matrix(encoder: Encoder, frame: pa.Table) -> np.ndarray:
    """Numbers, then codes, as float32 with NaN for missing values."""
    arrays = encoder.encode(frame)
    codes = np.where(arrays["codes"] == MISSING_CODE, np.nan, arrays["codes"])
    return np.hstack([arrays["numbers"], codes.astype(np.float32)])


def _binary_tasks(task: Task, train: pa.Table) -> Iterator[tuple[Task, pa.Table]]:
    """Each label as a separate binary task."""
    labels = label_array(train[LABEL])
    for k, name in enumerate(task.classes):
        binary_frame = train.set_column(train.column_names.index(LABEL), LABEL, pa.array(labels[:, k]))
        yield Task(kind="binary", label=name), binary_frame
