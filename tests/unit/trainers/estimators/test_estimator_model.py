"""Estimators of scikit-learn: what they learn, and graphs with their scores, for missing and unseen values, too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import logit

from cluster.errors import DataError
from cluster.values import TaskKind
from features.definitions import Column
from features.encoder import MISSING_CODE, UNKNOWN_CODE, Arrays
from features.manifest import MODEL_FILE
from tests.factories.errors import raises
from tests.factories.trainers.boosted import boosted
from tests.factories.trainers.frames import COLUMNS, frame, part
from trainers.config import ModelSpec, TrainConfig
from trainers.estimators.catalog import ESTIMATORS
from trainers.estimators.estimator_model import EstimatorModel
from trainers.export.onnx_export import export
from trainers.loop.trainer import FitResult, calibrate
from trainers.scoring import onnx_scorer

PARITY = 1e-5
ROWS = 3_000
SMALL: dict[str, dict[str, Any]] = {
    "RandomForest": {"n_estimators": 30},
    "ExtraTrees": {"n_estimators": 30},
    "LogisticRegression": {"max_iter": 2000},
    "MLP": {"hidden_layer_sizes": (8, 6), "max_iter": 2000, "tol": 1e-3, "activation": "tanh"},
    "HuberRegressor": {"max_iter": 2000},
    "LinearSVR": {"max_iter": 100_000},
}
RANDOM_FOREST, EXTRA_TREES = "sklearn.ensemble.RandomForestClassifier", "sklearn.ensemble.ExtraTreesClassifier"
LOGISTIC = "sklearn.linear_model.LogisticRegression"


def _spec(name: str, **parameters: Any) -> ModelSpec:
    small = next((values for start, values in SMALL.items() if name.rpartition(".")[2].startswith(start)), {})
    return ModelSpec(build="sklearn", parameters={"estimator": name, **small, **parameters})


def _kinds(name: str) -> list[TaskKind]:
    is_classifier = name.endswith(("Classifier", "LogisticRegression"))
    return ["binary", "multiclass", "multilabel"] if is_classifier else ["regression"]


CASES = [(name, kind) for name in ESTIMATORS for kind in _kinds(name)]


def _difference(result: FitResult, arrays: Arrays) -> float:
    model = result.build_model()
    assert isinstance(model, EstimatorModel)
    served = onnx_scorer.score(onnx_scorer.open_session(model.to_onnx()), arrays)
    return float(np.abs(served.astype(np.float64) - model.score(arrays)).max()) / result.inputs.label_std


def _adversarial_rows(result: FitResult) -> Arrays:
    """Rows whose values are thresholds of trees, their neighbors in float32, missing, unseen, or extreme."""
    model, random = result.build_model(), np.random.default_rng(0)
    assert isinstance(model, EstimatorModel)
    trees = model.forest().trees if model.is_forest else ()
    numbers = random.normal(size=(ROWS, result.inputs.width)).astype(np.float32)
    for column in range(result.inputs.width):
        cuts = np.concatenate([np.zeros(1), *(t.thresholds[t.features == column] for t in trees)]).astype(np.float32)
        above, below = np.nextafter(cuts, np.float32(np.inf)), np.nextafter(cuts, np.float32(-np.inf))
        extremes = np.array([-0.0, 1e-38, 3e38, -3e38, np.inf, -np.inf], np.float32)
        chosen = random.random(ROWS) < 0.8
        numbers[chosen, column] = random.choice(np.concatenate([cuts, above, below, extremes]), chosen.sum())
        numbers[random.random(ROWS) < 0.1, column] = np.nan
    codes = np.column_stack([random.integers(size, size=ROWS) for size in result.inputs.cardinalities])
    return {"numbers": numbers, "codes": codes.astype(np.int64)}


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_graph_scores_like_estimator_at_thresholds_and_for_missing_and_unseen_values(name: str, kind: TaskKind) -> None:
    result = boosted(kind, _spec(name))
    arrays = _adversarial_rows(result)
    assert {MISSING_CODE, UNKNOWN_CODE} <= set(arrays["codes"].ravel().tolist())
    assert np.isnan(arrays["numbers"]).any(axis=0).all()
    assert _difference(result, arrays) < PARITY
    if kind != "regression":
        for temperature in (0.5, 4.0):
            assert _difference(replace(result, temperature=temperature), arrays) < PARITY


@pytest.mark.parametrize(
    ("name", "kind", "metric", "bound"),
    [
        (RANDOM_FOREST, "binary", "auc", 0.85),
        (EXTRA_TREES, "multiclass", "accuracy", 0.6),
        ("sklearn.ensemble.RandomForestRegressor", "regression", "r2", 0.7),
        (RANDOM_FOREST, "multilabel", "auc", 0.85),
        (LOGISTIC, "binary", "auc", 0.9),
        ("sklearn.linear_model.Ridge", "regression", "r2", 0.8),
        ("sklearn.neural_network.MLPClassifier", "multiclass", "accuracy", 0.6),
    ],
)
def test_estimator_learns_in_one_epoch(name: str, kind: TaskKind, metric: str, bound: float) -> None:
    result = boosted(kind, _spec(name))
    (epoch,) = result.epochs
    assert result.metrics[metric] > bound
    assert (epoch.number, epoch.of, epoch.best) == (1, 1, True)
    assert epoch.loss < 1


@pytest.mark.parametrize("name", [RANDOM_FOREST, "sklearn.neural_network.MLPClassifier"])
def test_fit_repeats_and_another_seed_differs(name: str) -> None:
    arrays = boosted(spec=_spec(name)).encoder.encode(frame())
    one, again, other = (
        boosted(spec=_spec(name), config=TrainConfig(workers=1, seed=seed)).build_model().score(arrays)
        for seed in (3, 3, 4)
    )
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("name", [RANDOM_FOREST, LOGISTIC])
def test_class_weights_raise_the_scores_of_the_weighted_class(name: str) -> None:
    weighted = boosted(spec=_spec(name), config=TrainConfig(workers=1, class_weights=(1.0, 5.0)))
    arrays = weighted.encoder.encode(part(frame(), "validation"))
    plain = boosted(spec=_spec(name)).build_model().score(arrays)
    assert weighted.build_model().score(arrays).mean() > plain.mean() + 0.01


@pytest.mark.parametrize("name", [RANDOM_FOREST, LOGISTIC])
def test_temperature_divides_the_logits(name: str) -> None:
    result = boosted(spec=_spec(name), config=TrainConfig(workers=1, calibrate="temperature"))
    calibrated = calibrate(result, part(frame(), "validation"))
    assert calibrated.temperature != 1.0
    arrays = result.encoder.encode(part(frame(), "validation"))
    raw, scaled = (each.build_model().score(arrays).astype(float) for each in (result, calibrated))
    inside = (raw > 1e-3) & (raw < 1 - 1e-3)
    assert inside.sum() > 50
    assert np.allclose(logit(raw[inside]), calibrated.temperature * logit(scaled[inside]), atol=1e-2)


def test_trees_order_categories_and_score_an_unseen_one() -> None:
    result = boosted(spec=_spec("sklearn.tree.DecisionTreeClassifier"), columns=COLUMNS[3:4])
    arrays = {"numbers": np.empty((5, 0), np.float32), "codes": np.arange(5)[:, None]}
    scores = result.build_model().score(arrays)
    rows = part(frame(), "train").to_pandas()
    rates = [rows.label[rows.color == name].mean() for name in ("blue", "green", "red")]
    assert np.argsort(scores[2:]).tolist() == np.argsort(rates).tolist()
    assert min(scores) <= scores[UNKNOWN_CODE] <= max(scores)


@pytest.mark.parametrize("name", [RANDOM_FOREST, LOGISTIC])
@pytest.mark.parametrize(
    ("columns", "names"),
    [(COLUMNS, ["numbers", "codes"]), (COLUMNS[:3], ["numbers"]), (COLUMNS[3:4], ["codes"])],
)
def test_export_writes_served_and_portable_model(
    name: str, columns: tuple[Column, ...], names: list[str], tmp_path: Path
) -> None:
    result = boosted(spec=_spec(name), columns=columns)
    assert export(result, tmp_path, frame(seed=5)) < PARITY
    session = onnx_scorer.open_session(tmp_path / MODEL_FILE)
    assert [node.name for node in session.get_inputs()] == names
    assert [node.name for node in session.get_outputs()] == ["scores"]


def test_class_without_training_rows_is_refused() -> None:
    table = part(frame("multiclass"), "train")
    few = table.filter(np.asarray(table["label"]) != 2)
    validation = part(frame("multiclass"), "validation")
    with raises(DataError, "data.class_without_rows", classes=[2]):
        boosted("multiclass", _spec(RANDOM_FOREST), table=pa.concat_tables([few, validation]))


def test_error_of_an_estimator_names_it() -> None:
    with raises(DataError, "data.estimator_fails", name="sklearn.ensemble.RandomForestRegressor"):
        boosted("regression", _spec("sklearn.ensemble.RandomForestRegressor", bootstrap=False, oob_score=True))
