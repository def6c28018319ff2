"""Scores of an exported model, and its metrics as a whole, by group and over time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pyarrow as pa

from cluster.errors import DataError
from cluster.values import Frozen, Task
from features.encoder import Arrays
from features.manifest import MODEL_FILE, Manifest
from trainers import metrics
from trainers.metrics import evaluate

__all__ = [
    "CalibrationBin",
    "by_group",
    "by_time",
    "calibration",
    "evaluate",
    "output_columns",
    "outputs",
    "score",
    "score_table",
    "session",
]

Metrics = dict[str, float]

CALL_ROWS = 512
"""Rows of one call of a model: the values between its layers stay in a core's cache, which makes it up to 1.8 times as fast."""


class CalibrationBin(Frozen):
    """Rows of similar score: their mean score, and the share of them that came true."""

    score: float
    share: float
    rows: int


def session(model: Path | bytes, threads: int = 1) -> ort.InferenceSession:
    """An inference session on the CPU. Raises DataError when there is no model file."""
    if isinstance(model, Path) and not model.exists():
        raise DataError(f"no model at {model}", "was the artifact store moved or cleaned?")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def score(model: ort.InferenceSession, arrays: Arrays) -> np.ndarray:
    """Scores of encoded rows, float32, in the convention of contracts.Task."""
    names = [node.name for node in model.get_inputs()]
    rows = len(arrays["numbers"])
    starts = range(0, max(1, rows), CALL_ROWS)
    parts = [model.run(None, {name: arrays[name][at : at + CALL_ROWS] for name in names})[0] for at in starts]
    return np.concatenate(parts)


def score_table(folder: Path, frame: pa.Table, threads: int = 1) -> np.ndarray:
    """Scores of a feature frame by the model of a bundle."""
    return score(session(folder / MODEL_FILE, threads), Manifest.load(folder).encoder.encode(frame))


def output_columns(task: Task) -> tuple[str, ...]:
    """Names of ``outputs``."""
    return ("scores", "predicted") if task.wide else ("score",)


def outputs(task: Task, scores: np.ndarray) -> dict[str, pa.Array]:
    """Scores as columns of a table.

    Binary and regression: column "score"; multiclass: "scores" (a list in the order of the classes) and "predicted"; multilabel: the
    same, "predicted" being the list of labels with a score of 0.5 or more.
    """
    if not task.wide:
        return {"score": pa.array(scores, pa.float64())}
    classes = np.asarray(task.classes)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel(), pa.float64()), len(classes))
    if task.kind == "multilabel":
        return {"scores": lists, "predicted": pa.array([classes[row >= 0.5] for row in scores], pa.list_(pa.string()))}
    return {"scores": lists, "predicted": pa.array(classes[scores.argmax(axis=1)], pa.string())}


def calibration(task: Task, scores: np.ndarray, labels: np.ndarray, bins: int = 10) -> tuple[CalibrationBin, ...]:
    """Reliability of probabilities, in bins of about equal numbers of rows (multiclass: of the predicted class; multilabel: of all labels).

    Raises DataError for regression, which has none.
    """
    if task.kind == "regression":
        raise DataError("a regression has no calibration curve of probabilities")
    wide = task.kind == "multiclass"
    chance = scores.max(axis=1) if wide else scores.ravel()
    hits = scores.argmax(axis=1) == labels if wide else labels.ravel()
    order = np.argsort(chance, kind="stable")
    return tuple(
        CalibrationBin(score=float(chance[part].mean()), share=float(hits[part].mean()), rows=len(part))
        for part in np.array_split(order, bins)
        if len(part)
    )


def by_group(task: Task, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> dict[str, Metrics]:
    """Metrics and the number of rows of each group, in the groups' order. ``groups`` [n] has anything that sorts."""
    result = {}
    for group in np.unique(groups):
        here = groups == group
        result[str(group)] = {**metrics.evaluate(task, scores[here], labels[here]), "rows": float(here.sum())}
    return result


def by_time(
    task: Task, scores: np.ndarray, labels: np.ndarray, as_of: pa.ChunkedArray | pa.Array, unit: str = "M"
) -> dict[str, Metrics]:
    """Metrics per period of ``as_of`` (timestamps, UTC); ``unit`` is NumPy's: "M" month, "W" week, "D" day."""
    instants = as_of.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    return by_group(task, scores, labels, instants.astype("datetime64[us]").astype(f"datetime64[{unit}]"))
