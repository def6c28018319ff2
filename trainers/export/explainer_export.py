"""The explainer of a trained model: exact for trees and linear models, by samples for others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy.special import expit, softmax

from cluster.values import Task
from features.attributions.additive_terms import AdditiveTerms
from features.attributions.contributions import Method
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
from trainers.loop.trainer import FitResult
from trainers.models.linear import Linear
from trainers.models.tabular_input import CLIP_STD
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
    method, data = _exact(result, rows)
    if data is None or not _adds_up(result, folder, method, data, rows):
        features = len(result.encoder.columns)
        method, data = "sampled", Background(**_head(rows, min(MAX_BACKGROUND, background_size(features))))
    save_explainer(ExplainerRecord(method=method, reasons=dict(reasons)), data, folder)
    return method


def _exact(result: FitResult, rows: Arrays) -> tuple[Method, ExplainerData | None]:
    """The exact method for a kind of model, and its data; None where there is none."""
    if not result.spec.is_module:
        model = result.build_model()
        return "treeshap", leaf_paths(model.forest(), *_unit(result)) if isinstance(model, TreeModel) else None
    module = result.build_module()
    return "linear", _linear_terms(module, rows, *_unit(result)) if isinstance(module, Linear) else None


def _unit(result: FitResult) -> tuple[float, float]:
    """Scale and shift from logits to what contributions add up to: scaled logits, or a regression's label."""
    if result.task.kind == "regression":
        return result.inputs.label_std, result.inputs.label_mean
    return 1.0 / result.temperature, 0.0


def _linear_terms(module: Linear, rows: Arrays, scale: float, shift: float) -> AdditiveTerms:
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
        bias=state["head.bias"] * scale + shift,
        center=np.empty(0),
    )
    return terms._replace(center=np.stack([terms.terms(rows, k).mean(axis=0) for k in range(len(head))]))


def _adds_up(result: FitResult, folder: Path, method: Method, data: ExplainerData, rows: Arrays) -> bool:
    """Whether the method's contributions add up to the scores of model.onnx."""
    session, some = onnx_scorer.open_session(folder / MODEL_FILE), _head(rows, CHECKED_ROWS)
    explainer = Explainer.build(
        ExplainerRecord(method=method), data, result.encoder, result.task, lambda arrays: np.empty(0)
    )
    totals = [
        [explainer.rows.explain(row, output).total for output in range(result.task.outputs)]
        for row in ({name: values[i : i + 1] for name, values in some.items()} for i in range(len(some["numbers"])))
    ]
    difference = np.abs(_scores(result.task, np.array(totals)) - onnx_scorer.score(session, some)).max()
    return bool(difference / result.inputs.label_std <= TOLERANCE)


def _scores(task: Task, totals: np.ndarray) -> np.ndarray:
    """Scores from sums of contributions, [rows, outputs]."""
    if task.kind == "multiclass":
        return np.asarray(softmax(totals, axis=1))
    scores = totals if task.kind == "regression" else expit(totals)
    return scores if task.wide else scores[:, 0]


def _head(rows: Arrays, count: int) -> Arrays:
    return {name: values[:count] for name, values in rows.items()}
