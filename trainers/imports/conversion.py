"""From a model that was trained elsewhere to the graph that rayloop serves, compared on reference rows. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from cluster.errors import DataError
from cluster.values import Task, TaskKind
from features.definitions import Column
from features.encoder import Encoder
from features.python_models.score_checks import find_score_fault
from trainers.imports.source_model import InputKind, Signature, SourceModel, choose_scores
from trainers.scoring import onnx_scorer

MAX_PARITY = 1e-5
"""Largest difference between a model's own scores and those of its graph; of a regression in standard deviations."""


class Conversion(NamedTuple):
    """A model as rayloop serves it."""

    graph: bytes
    """ONNX from encoded rows to scores."""
    encoder: Encoder
    task: Task
    parity: float
    """Largest difference from the model's own scores, as ``MAX_PARITY`` measures it."""
    rows: int
    """Rows that were compared."""


def match_columns(
    source: SourceModel, present: Mapping[str, InputKind], usable: Sequence[str]
) -> tuple[SourceModel, tuple[Column, ...]]:
    """Find the columns that a model takes in a table.

    Args:
        source: The model.
        present: Kinds of the table's columns of numbers and texts, by name.
        usable: Of these, the columns that a model without names takes, in order.

    Returns:
        The model with names, and its columns.

    Raises:
        DataError: A column is missing, is of another kind, or their number differs.
    """
    signature = source.signature
    if not signature.names:
        if signature.width and signature.width != len(usable):
            raise DataError("data.import_width", inputs=signature.width, columns=len(usable), names=list(usable))
        source = source.with_names(tuple(usable))
        signature = source.signature
    if missing := [name for name in signature.names if name not in present]:
        raise DataError("data.import_columns", missing=missing, present=list(present))
    kinds = {name: signature.kinds.get(name, present[name]) for name in signature.names}
    for name, kind in kinds.items():
        if kind == "number" and present[name] == "category":
            raise DataError("data.import_input", name=name, reason="it takes numbers, and the rows have texts")
    return source, tuple(Column(name=name, kind=kind) for name, kind in kinds.items())


def infer_task(signature: Signature, outputs: np.ndarray, label_values: int) -> TaskKind:
    """What a model predicts.

    Args:
        signature: What its file says.
        outputs: Its outputs for reference rows.
        label_values: Different values of the rows' label.
    """
    width = outputs.shape[1]
    if signature.is_classifier is False:
        return "regression"
    if width > 1 or signature.is_classifier:
        return "binary" if width <= 2 else "multiclass"
    is_share = bool(((outputs >= 0) & (outputs <= 1)).all())
    return "binary" if label_values == 2 and is_share else "regression"


def name_classes(source: SourceModel, values: tuple[str, ...]) -> SourceModel:
    """Name the classes of a model that numbers them, or does not name them, by the label's values in order."""
    classes = source.signature.classes
    numbered = classes == tuple(map(str, range(len(classes))))
    if numbered and len(values) == max(2, len(classes)) and not (classes and set(values) <= set(classes)):
        return source.with_classes(values)
    return source


def convert(source: SourceModel, columns: tuple[Column, ...], rows: pl.DataFrame, task: Task) -> Conversion:
    """Convert a model, and compare its scores with those of its graph.

    Args:
        source: The model.
        columns: The columns of the feature set, in order; the model takes some or all of them.
        rows: Reference rows with these columns: numbers as floats, categories as texts.
        task: What the model predicts.

    Raises:
        DataError: Its outputs are not the task's scores, or those of the graph differ.
    """
    encoder = Encoder(columns=columns, vocabularies=source.vocabularies(columns) | _unused(source, columns))
    expected = scores_of(source, rows, task)
    graph = source.to_onnx(encoder, task)
    arrays = encoder.encode(rows.select(column.name for column in columns).to_arrow())
    actual = onnx_scorer.score(onnx_scorer.open_session(graph), arrays)
    differences = np.abs(expected - actual).reshape(rows.height, -1).max(axis=1) / _scale(task, expected)
    parity = float(differences.max())
    if not parity <= MAX_PARITY:
        wrong = int((differences > MAX_PARITY).sum())
        raise DataError("data.import_parity", difference=parity, limit=MAX_PARITY, wrong=wrong, rows=rows.height)
    return Conversion(graph, encoder, task, parity, rows.height)


def scores_of(source: SourceModel, rows: pl.DataFrame, task: Task) -> np.ndarray:
    """A model's own scores of rows, float64.

    Raises:
        DataError: They are not scores of the task.
    """
    outputs = source.outputs(rows)
    scores = choose_scores(task, source.signature.classes, outputs)
    if scores is None:
        reason = f"{outputs.shape[1]} outputs, classes {list(source.signature.classes)}"
        raise DataError("data.import_not_scores", kind=task.kind, reason=reason)
    if reason := find_score_fault(task, scores):
        raise DataError("data.import_not_scores", kind=task.kind, reason=reason)
    return scores


def _unused(source: SourceModel, columns: tuple[Column, ...]) -> dict[str, tuple[str, ...]]:
    """Empty vocabularies of categories that the model does not take."""
    taken = set(source.signature.names)
    return {column.name: () for column in columns if column.kind == "category" and column.name not in taken}


def _scale(task: Task, scores: np.ndarray) -> float:
    return float(scores.std()) or 1.0 if task.kind == "regression" else 1.0
