"""Models that are trained on synthetic rows of a rare class: their scores are probabilities of the true rows."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster.values import TaskKind
from features.attributions.explainer_file import load_explainer
from features.encoder import Encoder
from features.manifest import MODEL_FILE
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part
from tests.factories.trainers.raced import QUICK, ticking
from tests.factories.trainers.training import rows
from trainers.config import ModelSpec, Oversample, TrainConfig
from trainers.data.batches import EncodedRows, MemoryLoader, MemoryValidationLoader
from trainers.data.oversampling import synthesize
from trainers.export.explainer_export import export_explainer
from trainers.export.onnx_export import export
from trainers.input_spec import InputSpec
from trainers.loop import library_loop, selection_loop, train_loop
from trainers.loop.process_group import ProcessGroup
from trainers.loop.train_spec import TrainSpec
from trainers.loop.trainer import FitResult
from trainers.scoring import onnx_scorer
from trainers.trees.tree_model import TreeModel

pytestmark = pytest.mark.long

FOREST = "sklearn.ensemble.RandomForestClassifier"
SPECS = {
    "linear": ModelSpec(build="linear"),
    "lightgbm": ModelSpec(build="lightgbm", parameters={"rounds": 40, "min_child_samples": 50}),
    "logistic": ModelSpec(
        build="sklearn", parameters={"estimator": "sklearn.linear_model.LogisticRegression", "max_iter": 2000}
    ),
    "forest": ModelSpec(build="sklearn", parameters={"estimator": FOREST, "min_samples_leaf": 50}),
    "auto": QUICK,
}


def _imbalanced(kind: TaskKind) -> pa.Table:
    """Rows whose classes are drawn with probabilities that follow from "plain": about a tenth is not of the first."""
    table, random = frame(rows=4_000), np.random.default_rng(1)
    plain = table["plain"].to_numpy()
    logits = [np.zeros(len(plain)), plain - 2.5, *([-plain - 3.0] if kind == "multiclass" else [])]
    draws = np.column_stack(logits) + random.gumbel(size=(len(plain), len(logits)))
    labels = pa.array(draws.argmax(axis=1).astype(float))
    return table.set_column(table.column_names.index("label"), "label", labels)


@cache
def _fit(kind: TaskKind, name: str, corrected: bool = True) -> FitResult:
    table, task, spec = _imbalanced(kind), TASKS[kind], SPECS[name]
    config = TrainConfig(workers=1, minority=Oversample(), epochs=10 if spec.is_module else 3, lr=2e-2, batch_size=128)
    encoder = Encoder.fit((COLUMNS[0], COLUMNS[3]), part(table, "train"))
    true, held_out = rows(part(table, "train"), encoder), rows(part(table, "validation"), encoder)
    arrays = {"numbers": true.numbers, "codes": true.codes}
    inputs = InputSpec.fit(encoder, task, arrays, true.labels)
    made = synthesize(Oversample(), task, inputs, arrays, true.labels, None, seed=0)
    joined = EncodedRows(
        np.concatenate([true.numbers, made.arrays["numbers"]]),
        np.concatenate([true.codes, made.arrays["codes"]]),
        np.concatenate([true.labels, made.labels]),
    )
    if corrected:
        inputs = inputs.model_copy(update={"logit_shift": made.logit_shift})
    train_spec = TrainSpec(spec, config, task, inputs)
    if spec.is_module:
        loader, validation = MemoryLoader(joined, config.batch_size, 0), MemoryValidationLoader(held_out)
        outcome = train_loop.train(train_spec, loader, validation, ProcessGroup(), lambda epoch: None)
    elif spec.is_auto:
        outcome = selection_loop.train(train_spec, joined, held_out, clock=ticking(0.05))
    else:
        outcome = library_loop.train(train_spec, joined, held_out)
    return FitResult(
        spec, config, task, encoder, inputs, outcome.state, outcome.epochs, outcome.best.metrics, {}, {"total": 0.0}
    )


def _scores(result: FitResult, table: pa.Table) -> np.ndarray:
    return result.build_model().score(result.encoder.encode(table)).astype(np.float64)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
@pytest.mark.parametrize("name", SPECS)
def test_mean_score_is_the_share_of_true_rows(kind: TaskKind, name: str) -> None:
    held_out = part(_imbalanced(kind), "validation")
    labels = held_out["label"].to_numpy().astype(int)
    classes = 2 if kind == "binary" else 3
    shares = np.bincount(labels, minlength=classes) / len(labels)
    scores = {corrected: _scores(_fit(kind, name, corrected), held_out) for corrected in (True, False)}
    errors: dict[bool, Any] = {}
    for corrected, each in scores.items():
        wide = np.column_stack([1 - each, each]) if kind == "binary" else each
        errors[corrected] = np.abs(wide.mean(axis=0) - shares).max()
    assert errors[True] < 0.04
    assert errors[False] > 0.15


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["binary", "multiclass"])
@pytest.mark.parametrize("name", SPECS)
def test_corrected_model_is_exported_with_parity_and_explained(
    kind: TaskKind, name: str, temperature: float, tmp_path: Path
) -> None:
    result = replace(_fit(kind, name), temperature=temperature)
    table = _imbalanced(kind)
    assert export(result, tmp_path, table) < 1e-5
    method = export_explainer(result, tmp_path, part(table, "train"), {})
    # Of "auto", a single model of trees is explained exactly.
    by_name = {"linear": "linear", "logistic": "linear", "forest": "sampled", "auto": "sampled"}
    assert method == ("treeshap" if isinstance(result.build_model(), TreeModel) else by_name[name])
    session = onnx_scorer.open_session(tmp_path / MODEL_FILE)
    assert load_explainer(tmp_path, result.encoder, result.task, lambda arrays: onnx_scorer.score(session, arrays))
