"""LightGBM on the same frame, trained as a careful user would: the baseline that a model has to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from cluster.values import Task
from features.encoder import Encoder
from features.types import AS_OF, LABEL, WEIGHT
from trainers import metrics
from trainers.config import ModelSpec, Parameter, TrainConfig
from trainers.data.batches import EncodedRows
from trainers.data.encoding_task import label_array, weight_array
from trainers.input_spec import InputSpec
from trainers.scoring.onnx_scorer import metrics_by_time
from trainers.trees.boosting import Boosting
from trainers.trees.early_stopping import EarlyStopping
from trainers.trees.parameters import PATIENCE
from trainers.trees.tree_model import TreeModel

PARAMETERS: Mapping[str, Parameter] = {"min_child_samples": 100}
"""Parameters of the baseline, where they differ from those of the kind "lightgbm"."""


def evaluate_baseline(
    task: Task, encoder: Encoder, train: pa.Table, validation: pa.Table, test: pa.Table, columns: Sequence[str] | None
) -> dict[str, Any]:
    """Fit the baseline and measure it.

    Args:
        task: The task.
        encoder: The encoder of the feature set.
        train: Rows to fit on.
        validation: Rows that decide the number of rounds.
        test: Rows to measure on.
        columns: Features to use; None uses all.

    Returns:
        ``metrics`` on ``test``, and the same by month as ``months``.
    """
    scores = fit_baseline(task, encoder, train, validation, columns=columns).score(test)
    labels = label_array(test[LABEL])
    months = metrics_by_time(task, scores, labels, test[AS_OF])
    return {"metrics": metrics.evaluate(task, scores, labels), "months": months}


class FittedBaseline(NamedTuple):
    """The fitted baseline."""

    encoder: Encoder
    """Of the columns that it uses."""
    model: TreeModel

    def score(self, rows: pa.Table) -> np.ndarray:
        """Scores of rows (cluster.values.Task)."""
        return self.model.score(self.encoder.encode(rows))


def fit_baseline(
    task: Task,
    encoder: Encoder,
    train: pa.Table,
    validation: pa.Table | None = None,
    *,
    columns: Sequence[str] | None = None,
    parameters: Mapping[str, Parameter] = PARAMETERS,
) -> FittedBaseline:
    """Fit gradient-boosted trees.

    Args:
        task: The task.
        encoder: The encoder of the feature set.
        train: Rows to fit on.
        validation: Rows that decide the number of rounds; None trains all ``rounds``.
        columns: Features to use; None uses all.
        parameters: Parameters of the trees.
    """
    chosen = encoder if columns is None else select_columns(encoder, columns)
    rows, held_out = _rows(chosen, train), _rows(chosen, train.slice(0, 1) if validation is None else validation)
    inputs = InputSpec.fit(chosen, task, {"numbers": rows.numbers, "codes": rows.codes}, rows.labels, rows.weights)
    spec = ModelSpec(build="lightgbm", parameters=dict(parameters))
    seen = {"numbers": held_out.numbers, "codes": held_out.codes}
    boosting = Boosting(spec, TrainConfig(workers=1), task, inputs, rows, seen)
    stopping = EarlyStopping(metrics.primary_metric(task), PATIENCE)
    while not boosting.is_complete and not stopping.is_over(boosting.rounds):
        boosting.grow_block()
        if validation is not None:
            value = metrics.prepare(task, stopping.metric.name, boosting.validation_scores(), held_out.labels)(None)
            stopping.offer(value, boosting.rounds)
    state = boosting.state(stopping.best_rounds or boosting.rounds)
    return FittedBaseline(chosen, TreeModel(spec, task, inputs, state))


def select_columns(encoder: Encoder, columns: Sequence[str]) -> Encoder:
    """The encoder of some of its columns, in its own order."""
    selected = tuple(column for column in encoder.columns if column.name in columns)
    vocabularies = {c.name: encoder.vocabularies[c.name] for c in selected if c.kind == "category"}
    return Encoder(columns=selected, vocabularies=vocabularies)


def _rows(encoder: Encoder, table: pa.Table) -> EncodedRows:
    weights = weight_array(table) if WEIGHT in table.column_names else None
    return EncodedRows(**encoder.encode(table), labels=label_array(table[LABEL]), weights=weights)
