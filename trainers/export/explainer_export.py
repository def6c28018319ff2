"""The explainer of a trained model: exact for trees and linear models, by samples for others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy.special import expit, softmax

from cluster.values import Task
from features.attributions.additive_terms import AdditiveTerms
from features.attributions.contributions import Method, Unit
from features.attributions.explainer_file import (
    Background,
    Explainer,
    ExplainerData,
    ExplainerRecord,
    save_explainer,
)
from features.attributions.sampled_shapley import background_size
from features.encoder import Arrays
from features.manifest import MODEL_FILE
from trainers.estimators.estimator_model import EstimatorModel
from trainers.estimators.layers import Layers
from trainers.input_spec import CLIP_STD, InputSpec
from trainers.loop.trainer import FitResult
from trainers.models.linear import Linear
from trainers.scoring import onnx_scorer
from trainers.trees.leaf_paths import leaf_paths
from trainers.trees.tree_model import TreeModel

MAX_BACKGROUND = 64
CENTER_ROWS = 20_000
"""Training rows over which the terms of a linear model are averaged."""
CHECKED_ROWS = 16
"""Training rows on which exact contributions must add up to the scores of the served model."""
TOLERANCE = 1e-4
"""Of scores; of a regression, in standard deviations of the label."""


def export_explainer(result: FitResult, folder: Path, train: pa.Table, reasons: Mapping[str, str]) -> Method:
    """Write explainer.safetensors beside the model.onnx in ``folder``.

    A method is exact only where its contributions add up to the scores of model.onnx, which they do not if that has
    int8 weights.

    Args:
        result: The trained model.
        folder: The bundle.
        train: Training rows.
        reasons: Words of a reason, by feature.

    Returns:
        The method.
    """
    generator = np.random.default_rng(result.config.seed)
    chosen = generator.permutation(train.num_rows)[:CENTER_ROWS]
    rows = result.encoder.encode(train.take(chosen))
    record, data = _exact(result, rows)
    if data is None or not _adds_up(result, folder, record, data, rows):
        features = len(result.encoder.columns)
        data = Background(**_head(rows, min(MAX_BACKGROUND, background_size(features))))
        record = ExplainerRecord(method="sampled")
    save_explainer(record.model_copy(update={"reasons": dict(reasons)}), data, folder)
    return record.method


def _exact(result: FitResult, rows: Arrays) -> tuple[ExplainerRecord, ExplainerData | None]:
    """The exact method for a kind of model, and its data; None where there is none."""
    linear, trees = ExplainerRecord(method="linear"), ExplainerRecord(method="treeshap")
    if result.spec.is_module:
        module, inputs = result.build_module(), result.inputs
        return linear, _linear_terms(module, inputs, rows, *_unit(result)) if isinstance(module, Linear) else None
    model = result.build_model()
    if isinstance(model, EstimatorModel) and not model.is_forest:
        return linear, _layer_terms(model.layers(), result.inputs, rows, *_unit(result))
    if not isinstance(model, TreeModel | EstimatorModel):
        return trees, None
    forest = model.forest()
    if forest.of_probabilities and (result.temperature != 1.0 or result.inputs.logit_shift):
        # Probabilities of trees add up, and those that a temperature or a shift of logits has changed do not.
        return trees, None
    trees = trees.model_copy(update={"unit": "probability" if forest.of_probabilities else None})
    return trees, leaf_paths(forest, *((1.0, 0.0) if forest.of_probabilities else _unit(result)))


def _unit(result: FitResult) -> tuple[float, float]:
    """Scale and shift from logits to what contributions add up to: scaled logits, or a regression's label."""
    if result.task.kind == "regression":
        return result.inputs.label_std, result.inputs.label_mean
    return 1.0 / result.temperature, 0.0


def _linear_terms(module: Linear, inputs: InputSpec, rows: Arrays, scale: float, shift: float) -> AdditiveTerms:
    state = {name: values.detach().numpy().astype(np.float64) for name, values in module.state_dict().items()}
    head, width = state["head.weight"] * scale, len(state["inputs.mean"])
    indicators = module.inputs.missing.numpy()
    missing = np.zeros((len(head), width))
    missing[:, indicators] = head[:, width : width + len(indicators)]
    by_category, at = list[np.ndarray](), width + len(indicators)
    for i in range(len(module.inputs.embeddings)):
        embedding = state[f"inputs.embeddings.{i}.weight"]
        by_category.append(head[:, at : at + embedding.shape[1]] @ embedding.T)
        at += embedding.shape[1]
    sizes = [each.shape[1] for each in by_category]
    terms = AdditiveTerms(
        mean=state["inputs.mean"],
        std=state["inputs.std"],
        clip=np.array([CLIP_STD]),
        weight=head[:, :width],
        missing=missing,
        tables=np.hstack(by_category) if by_category else np.empty((len(head), 0)),
        first_code=np.cumsum([0, *sizes])[:-1].astype(np.int64),
        bias=(state["head.bias"] - np.array(inputs.logit_shift or 0.0)) * scale + shift,
        center=np.empty(0),
    )
    return _center(terms, rows)


def _layer_terms(layers: Layers, inputs: InputSpec, rows: Arrays, scale: float, shift: float) -> AdditiveTerms | None:
    """Terms of a model of one layer, on the columns of trainers.estimators.columns.dense_columns."""
    if len(layers.weights) > 1:
        return None
    head, flags = layers.weights[0].T * scale, inputs.width + len(inputs.missing)
    missing = np.zeros((len(head), inputs.width))
    missing[:, list(inputs.missing)] = head[:, inputs.width : flags]
    terms = AdditiveTerms(
        mean=np.array(inputs.mean),
        std=np.array(inputs.std),
        clip=np.array([CLIP_STD]),
        weight=head[:, : inputs.width],
        missing=missing,
        tables=head[:, flags:],
        first_code=np.cumsum([0, *inputs.cardinalities])[:-1].astype(np.int64),
        bias=layers.biases[0] * scale + shift,
        center=np.empty(0),
    )
    return _center(terms, rows)


def _center(terms: AdditiveTerms, rows: Arrays) -> AdditiveTerms:
    outputs = range(len(terms.bias))
    return terms._replace(center=np.stack([terms.terms(rows, k).mean(axis=0) for k in outputs]))


def _adds_up(result: FitResult, folder: Path, record: ExplainerRecord, data: ExplainerData, rows: Arrays) -> bool:
    """Whether the method's contributions add up to the scores of model.onnx."""
    session, some = onnx_scorer.open_session(folder / MODEL_FILE), _head(rows, CHECKED_ROWS)
    explainer = Explainer.build(record, data, result.encoder, result.task, lambda arrays: np.empty(0))
    totals = [
        [explainer.rows.explain(row, output).total for output in range(result.task.outputs)]
        for row in ({name: values[i : i + 1] for name, values in some.items()} for i in range(len(some["numbers"])))
    ]
    scores = _scores(result.task, np.array(totals), explainer.unit)
    difference = np.abs(scores - onnx_scorer.score(session, some)).max()
    return bool(difference / result.inputs.label_std <= TOLERANCE)


def _scores(task: Task, totals: np.ndarray, unit: Unit) -> np.ndarray:
    """Scores from sums of contributions, [rows, outputs]."""
    if unit == "logit":
        return np.asarray(softmax(totals, axis=1))
    scores = expit(totals) if unit == "log-odds" else totals
    return scores if task.wide else scores[:, 0]


def _head(rows: Arrays, count: int) -> Arrays:
    return {name: values[:count] for name, values in rows.items()}
