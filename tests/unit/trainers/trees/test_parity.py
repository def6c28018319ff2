"""The ONNX graph of trees has the scores of their library: for missing and unseen values, and at thresholds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cluster.values import TaskKind
from features.definitions import Column
from features.encoder import MISSING_CODE, UNKNOWN_CODE, Arrays
from features.manifest import MODEL_FILE
from tests.factories.trainers.boosted import FEW_ROUNDS, boosted
from tests.factories.trainers.frames import COLUMNS, frame
from trainers.config import ModelSpec
from trainers.export.onnx_export import export
from trainers.loop.trainer import FitResult
from trainers.scoring import onnx_scorer
from trainers.trees.libraries import library_of

PARITY = 1e-5
ROWS = 6_000
KINDS = ["lightgbm", "xgboost"]


def _difference(result: FitResult, arrays: Arrays) -> float:
    model = result.build_model()
    served = onnx_scorer.score(onnx_scorer.open_session(model.to_onnx()), arrays)
    return float(np.abs(served.astype(np.float64) - model.score(arrays)).max()) / result.inputs.label_std


def _adversarial_rows(result: FitResult) -> Arrays:
    """Rows whose values are thresholds of the trees, their neighbors in float32, missing, unseen, or extreme."""
    random = np.random.default_rng(0)
    forest = library_of(result.spec).forest(result.state["model.0"].tobytes())
    numbers = random.normal(size=(ROWS, result.inputs.width)).astype(np.float32)
    for column in range(result.inputs.width):
        cuts = np.concatenate(
            [
                t.thresholds[(t.features == column) & ~np.isin(np.arange(len(t.features)), list(t.categories))]
                for t in forest.trees
            ]
        ).astype(np.float32)
        above, below = np.nextafter(cuts, np.float32(np.inf)), np.nextafter(cuts, np.float32(-np.inf))
        zeros = np.array([0, -0.0, 1e-35, -1e-35, 1e-36, -1e-36, 1e-38, 3e38, -3e38, np.inf, -np.inf], np.float32)
        values = np.concatenate([cuts, above, below, zeros])
        chosen = random.random(ROWS) < 0.8
        numbers[chosen, column] = random.choice(values, chosen.sum())
        numbers[random.random(ROWS) < 0.1, column] = np.nan
    codes = np.column_stack([random.integers(size, size=ROWS) for size in result.inputs.cardinalities])
    return {"numbers": numbers, "codes": codes.astype(np.int64)}


@pytest.mark.parametrize("build", KINDS)
@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression", "multilabel"])
def test_graph_scores_like_library_at_thresholds_and_for_missing_and_unseen_values(kind: TaskKind, build: str) -> None:
    result = boosted(kind, ModelSpec(build=build, parameters=_few(build)))
    arrays = _adversarial_rows(result)
    assert {MISSING_CODE, UNKNOWN_CODE} <= set(arrays["codes"].ravel().tolist())
    assert np.isnan(arrays["numbers"]).any(axis=0).all()
    assert _difference(result, arrays) < PARITY


@pytest.mark.parametrize("build", KINDS)
def test_graph_of_many_categories_and_many_trees_has_parity(build: str) -> None:
    random, rows = np.random.default_rng(1), 3_000
    table = frame(rows=rows)
    names = [f"city {i}" for i in random.integers(60, size=rows)]
    table = table.append_column("city", [names]).append_column("town", [names[::-1]])
    columns = (*COLUMNS, Column(name="city", kind="category"), Column(name="town", kind="category"))
    parameters = {**_few(build), "rounds": 400, "learning_rate": 0.02}
    result = boosted(spec=ModelSpec(build=build, parameters=parameters), columns=columns, table=table)
    assert _difference(result, _adversarial_rows(result)) < PARITY


@pytest.mark.parametrize("build", KINDS)
@pytest.mark.parametrize(
    ("columns", "names"),
    [(COLUMNS, ["numbers", "codes"]), (COLUMNS[:3], ["numbers"]), (COLUMNS[3:4], ["codes"])],
)
def test_export_writes_served_and_portable_model(
    build: str, columns: tuple[Column, ...], names: list[str], tmp_path: Path
) -> None:
    result = boosted(spec=ModelSpec(build=build, parameters=_few(build)), columns=columns)
    assert export(result, tmp_path, frame(seed=5)) < PARITY
    session = onnx_scorer.open_session(tmp_path / MODEL_FILE)
    assert [node.name for node in session.get_inputs()] == names
    assert [node.name for node in session.get_outputs()] == ["scores"]


@pytest.mark.parametrize("build", KINDS)
def test_trees_without_a_split_have_a_graph(build: str) -> None:
    parameters = {"rounds": 2, **({"min_child_samples": 10_000} if build == "lightgbm" else {"min_child_weight": 1e9})}
    result = boosted("regression", ModelSpec(build=build, parameters=parameters), columns=COLUMNS[3:4])
    arrays = {"numbers": np.empty((3, 0), np.float32), "codes": np.zeros((3, 1), np.int64)}
    assert _difference(result, arrays) < PARITY
    assert np.ptp(result.build_model().score(arrays)) == 0


def _few(build: str) -> dict[str, object]:
    return dict(FEW_ROUNDS) if build == "lightgbm" else {"rounds": 60}
