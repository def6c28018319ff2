"""Scores of an exported model, and their metrics by group and over time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pyarrow as pa

from cluster.errors import DataError
from cluster.row_losses import DECISION_THRESHOLD
from cluster.values import Frozen, Task
from features.encoder import Arrays
from features.manifest import MODEL_FILE, Manifest
from trainers import metrics

Metrics = dict[str, float]

CALL_ROWS = 512
"""Rows of one call of a model: values between layers stay in a core's cache, which makes it up to 1.8 times as fast."""


class CalibrationBin(Frozen):
    """Rows with similar scores: their mean score, and the share of them that are correct."""

    score: float
    share: float
    rows: int


def open_session(model: Path | bytes, threads: int = 1) -> ort.InferenceSession:
    """An inference session on the CPU.

    Args:
        model: An ONNX file, or its content.
        threads: Threads of one call.

    Raises:
        DataError: The file does not exist.
    """
    if isinstance(model, Path) and not model.exists():
        raise DataError("data.model_file_missing", path=str(model))
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def score(model: ort.InferenceSession, arrays: Arrays) -> np.ndarray:
    """Scores of encoded rows, float32 (cluster.values.Task)."""
    names = [node.name for node in model.get_inputs()]
    starts = range(0, max(1, len(arrays["numbers"])), CALL_ROWS)
    parts = [model.run(None, {name: arrays[name][at : at + CALL_ROWS] for name in names})[0] for at in starts]
    return np.concatenate(parts)


def score_table(folder: Path, frame: pa.Table, threads: int = 1) -> np.ndarray:
    """Scores of a feature frame by the model of the bundle in ``folder``."""
    return score(open_session(folder / MODEL_FILE, threads), Manifest.load(folder).encoder.encode(frame))


def output_names(task: Task) -> tuple[str, ...]:
    """Names of the columns that ``output_arrays`` returns."""
    return ("scores", "predicted") if task.wide else ("score",)


def output_arrays(task: Task, scores: np.ndarray) -> dict[str, pa.Array]:
    """Scores as columns of a table, by name.

    Binary and regression: "score". Multiclass: "scores", a list in the order of the classes, and "predicted", the
    likeliest class. Multilabel: the same, but "predicted" lists the labels with a score of at least
    DECISION_THRESHOLD.
    """
    if not task.wide:
        return {"score": pa.array(scores, pa.float64())}
    classes = np.asarray(task.classes)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel(), pa.float64()), len(classes))
    if task.kind == "multilabel":
        predicted = [classes[row >= DECISION_THRESHOLD] for row in scores]
        return {"scores": lists, "predicted": pa.array(predicted, pa.list_(pa.string()))}
    return {"scores": lists, "predicted": pa.array(classes[scores.argmax(axis=1)], pa.string())}


def calibration_curve(task: Task, scores: np.ndarray, labels: np.ndarray, bins: int = 10) -> tuple[CalibrationBin, ...]:
    """Calibration curve of probabilities: multiclass of the predicted class, multilabel of all labels together.

    Args:
        task: A task with probabilities.
        scores: Scores of the rows.
        labels: Labels of the rows.
        bins: Number of bins, each with about the same number of rows.

    Raises:
        DataError: The task is a regression.
    """
    if task.kind == "regression":
        raise DataError("data.regression_calibration_curve")
    multiclass = task.kind == "multiclass"
    probabilities = scores.max(axis=1) if multiclass else scores.ravel()
    hits = scores.argmax(axis=1) == labels if multiclass else labels.ravel()
    order = np.argsort(probabilities, kind="stable")
    return tuple(
        CalibrationBin(score=float(probabilities[part].mean()), share=float(hits[part].mean()), rows=len(part))
        for part in np.array_split(order, bins)
        if len(part)
    )


def metrics_by_group(task: Task, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> dict[str, Metrics]:
    """Metrics and number of rows of each group, in the order of the groups. ``groups`` [n] must be sortable."""
    by_group = {}
    for group in np.unique(groups):
        here = groups == group
        by_group[str(group)] = {**metrics.evaluate(task, scores[here], labels[here]), "rows": float(here.sum())}
    return by_group


def metrics_by_time(
    task: Task, scores: np.ndarray, labels: np.ndarray, as_of: pa.ChunkedArray | pa.Array, unit: str = "M"
) -> dict[str, Metrics]:
    """Metrics by period of ``as_of`` (timestamps, UTC). ``unit`` is that of NumPy: "M" month, "W" week, "D" day."""
    instants = as_of.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    return metrics_by_group(task, scores, labels, instants.astype("datetime64[us]").astype(f"datetime64[{unit}]"))
