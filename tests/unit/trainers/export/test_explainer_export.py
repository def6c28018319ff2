"""Explainers of trained models: contributions add up to the served scores, and equal those of the library."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, softmax

from cluster.errors import DataError
from cluster.values import TaskKind
from features.attributions.explainer_file import EXPLAINER_FILE, Explainer, load_explainer
from features.encoder import Arrays
from features.manifest import MODEL_FILE
from tests.factories.errors import raises
from tests.factories.trainers.boosted import FEW_ROUNDS, boosted
from tests.factories.trainers.frames import frame, part
from tests.factories.trainers.training import trained
from trainers.config import ModelSpec
from trainers.export.explainer_export import export_explainer
from trainers.export.onnx_export import export
from trainers.loop.trainer import FitResult
from trainers.scoring import onnx_scorer
from trainers.trees.booster import join_arrays
from trainers.trees.libraries import library_of

ROWS = 40
KINDS: list[TaskKind] = ["binary", "multiclass", "regression"]


def _parameters(build: str) -> dict[str, object]:
    return dict(FEW_ROUNDS) if build == "lightgbm" else {"rounds": 40}


def _explained(result: FitResult, kind: TaskKind, folder: Path) -> tuple[Explainer, Arrays, np.ndarray]:
    """The explainer as a replica loads it, encoded rows, and their served scores."""
    export(result, folder, frame(kind, seed=5))
    export_explainer(result, folder, part(frame(kind), "train"), {"plain": "Plainly large"})
    session = onnx_scorer.open_session(folder / MODEL_FILE)
    explainer = load_explainer(folder, result.encoder, result.task, lambda arrays: onnx_scorer.score(session, arrays))
    assert explainer is not None
    arrays = {name: values[:ROWS] for name, values in result.encoder.encode(frame(kind, seed=5)).items()}
    return explainer, arrays, onnx_scorer.score(session, arrays)


def _totals(explainer: Explainer, arrays: Arrays, outputs: int) -> np.ndarray:
    rows = [{name: values[i : i + 1] for name, values in arrays.items()} for i in range(ROWS)]
    return np.array([[explainer.rows.explain(row, k).total for k in range(outputs)] for row in rows])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("build", ["lightgbm", "xgboost", "linear"])
def test_exact_contributions_add_up_to_served_scores(kind: TaskKind, build: str, tmp_path: Path) -> None:
    if build == "linear":
        result = trained(kind, ModelSpec(build="linear"))
    else:
        result = boosted(kind, ModelSpec(build=build, parameters=_parameters(build)))
    result = replace(result, temperature=1.0 if kind == "regression" else 1.7)
    explainer, arrays, scores = _explained(result, kind, tmp_path)
    assert explainer.record.method == ("linear" if build == "linear" else "treeshap")
    assert explainer.unit == {"binary": "log-odds", "multiclass": "logit", "regression": "value"}[kind]
    assert explainer.record.reasons == {"plain": "Plainly large"}
    totals = _totals(explainer, arrays, result.task.outputs)
    expected = {"binary": lambda: expit(totals[:, 0]), "multiclass": lambda: softmax(totals, axis=1)}
    served = expected.get(kind, lambda: totals[:, 0])()
    assert np.abs(served - scores).max() / result.inputs.label_std <= 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("estimator", ["ensemble.RandomForest", "linear_model"])
def test_exact_contributions_of_estimators_add_up_to_served_scores(
    kind: TaskKind, estimator: str, tmp_path: Path
) -> None:
    names = ("Regressor", "Ridge") if kind == "regression" else ("Classifier", "LogisticRegression")
    trees = estimator == "ensemble.RandomForest"
    name = f"sklearn.{estimator}{names[0] if trees else f'.{names[1]}'}"
    parameters = {"n_estimators": 10} if trees else {"max_iter": 2000}
    result = boosted(kind, ModelSpec(build="sklearn", parameters={"estimator": name, **parameters}))
    if not trees and kind != "regression":
        result = replace(result, temperature=1.7)
    explainer, arrays, scores = _explained(result, kind, tmp_path)
    assert explainer.record.method == ("treeshap" if trees else "linear")
    of_logits = {"binary": "log-odds", "multiclass": "logit"}
    expected_unit = "value" if kind == "regression" else "probability" if trees else of_logits[kind]
    assert explainer.unit == expected_unit
    totals = _totals(explainer, arrays, result.task.outputs)
    if expected_unit in of_logits.values():
        totals = expit(totals) if kind == "binary" else softmax(totals, axis=1)
    assert np.abs(totals.reshape(scores.shape) - scores).max() / result.inputs.label_std <= 1e-4


@pytest.mark.parametrize(
    ("name", "temperature", "shift"),
    [
        ("sklearn.ensemble.RandomForestClassifier", 2.0, ()),
        # So small that it would not show on the rows that are tried.
        ("sklearn.ensemble.RandomForestClassifier", 1.0, (1e-6,)),
        ("sklearn.neural_network.MLPClassifier", 1.0, ()),
    ],
)
def test_estimator_without_exact_contributions_is_explained_by_samples(
    name: str, temperature: float, shift: tuple[float, ...], tmp_path: Path
) -> None:
    parameters = {"n_estimators": 10} if "Forest" in name else {"hidden_layer_sizes": (4,), "max_iter": 2000}
    result = boosted(spec=ModelSpec(build="sklearn", parameters={"estimator": name, **parameters}))
    inputs = result.inputs.model_copy(update={"logit_shift": shift})
    explainer, _, _ = _explained(replace(result, temperature=temperature, inputs=inputs), "binary", tmp_path)
    assert (explainer.record.method, explainer.unit) == ("sampled", "probability")


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_contributions_of_a_net_add_up_to_served_scores(kind: TaskKind, tmp_path: Path) -> None:
    result = trained(kind)
    explainer, arrays, scores = _explained(result, kind, tmp_path)
    assert explainer.record.method == "sampled"
    assert explainer.unit == ("value" if kind == "regression" else "probability")
    totals = _totals(explainer, arrays, result.task.outputs)
    assert np.abs(totals.reshape(scores.shape) - scores).max() / result.inputs.label_std <= 1e-4


@pytest.mark.parametrize("build", ["lightgbm", "xgboost"])
@pytest.mark.parametrize("kind", KINDS)
def test_contributions_of_trees_equal_those_of_the_library(kind: TaskKind, build: str, tmp_path: Path) -> None:
    result = boosted(kind, ModelSpec(build=build, parameters=_parameters(build)))
    explainer, arrays, _ = _explained(result, kind, tmp_path)
    columns = join_arrays(arrays)
    library = library_of(result.spec).load(result.state["model.0"].tobytes())
    if build == "lightgbm":
        expected = library.predict(columns, pred_contrib=True)
    else:
        import xgboost

        kinds = ["q"] * arrays["numbers"].shape[1] + ["c"] * arrays["codes"].shape[1]
        expected = library.predict(
            xgboost.DMatrix(columns, feature_types=kinds, enable_categorical=True, nthread=1), pred_contribs=True
        )
    scale = result.inputs.label_std if kind == "regression" else 1.0
    expected = np.asarray(expected).reshape(ROWS, result.task.outputs, -1) * scale
    for i in range(ROWS):
        row = {name: values[i : i + 1] for name, values in arrays.items()}
        for output in range(result.task.outputs):
            parts, theirs = explainer.rows.explain(row, output).parts, expected[i, output]
            # The four pixels are one feature.
            ours = [*theirs[:3], theirs[3:7].sum(), theirs[7]]
            np.testing.assert_allclose(parts, ours, atol=2e-5 * scale)


def test_bundle_without_explainer_has_none(tmp_path: Path) -> None:
    result = trained()
    explainer, _, _ = _explained(result, "binary", tmp_path)
    (tmp_path / EXPLAINER_FILE).unlink()
    assert load_explainer(tmp_path, result.encoder, result.task, explainer.rows.explain) is None  # type: ignore[arg-type]


def test_damaged_explainer_is_refused(tmp_path: Path) -> None:
    result = trained()
    (tmp_path / EXPLAINER_FILE).write_bytes(b"no safetensors")
    with raises(DataError, "data.invalid_explainer"):
        load_explainer(tmp_path, result.encoder, result.task, lambda arrays: arrays["numbers"])
