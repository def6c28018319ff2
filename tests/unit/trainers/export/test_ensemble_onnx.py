"""Several models as one graph give the weighted mean of their scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from cluster.values import TaskKind
from features.definitions import Column
from features.manifest import MODEL_FILE
from tests.factories.trainers.boosted import boosted
from tests.factories.trainers.frames import COLUMNS, TASKS, frame
from tests.factories.trainers.training import trained
from trainers.config import ModelSpec
from trainers.evaluation.calibration import apply_temperature
from trainers.export.onnx_export import save_model
from trainers.export.portable_onnx import score_portable, write_portable
from trainers.scoring import onnx_scorer
from trainers.selection.ensemble_model import EnsembleModel

pytestmark = pytest.mark.long

PARITY = 1e-5
WEIGHTS = (0.4, 0.3, 0.2, 0.1)
FEW = {"rounds": 30}


@pytest.mark.parametrize(
    ("kind", "columns", "temperature"),
    [
        ("binary", COLUMNS, 1.0),
        ("binary", COLUMNS[3:4], 0.6),
        ("multiclass", COLUMNS, 1.0),
        ("multiclass", COLUMNS, 1.7),
        ("regression", COLUMNS[:3], 1.0),
        ("multilabel", COLUMNS, 1.3),
    ],
)
def test_ensemble_of_every_kind_is_one_graph_with_parity(
    kind: TaskKind, columns: tuple[Column, ...], temperature: float, tmp_path: Path
) -> None:
    results = [
        *(boosted(kind, ModelSpec(build=build, parameters=FEW), columns=columns) for build in ("lightgbm", "xgboost")),
        *(trained(kind, ModelSpec(build=build), columns=columns) for build in ("mlp", "linear")),
    ]
    task, inputs, encoder = TASKS[kind], results[0].inputs, results[0].encoder
    members = [result.build_model() for result in results]
    model = EnsembleModel(members, WEIGHTS, task, temperature)
    save_model(model, inputs, tmp_path / MODEL_FILE)
    for rows in (700, 1):
        table = frame(kind, rows=rows, seed=5)
        arrays = encoder.encode(table)
        mean = sum(w * m.score(arrays).astype(float) for w, m in zip(WEIGHTS, members, strict=True))
        expected = mean if temperature == 1.0 else apply_temperature(task, np.asarray(mean), temperature)
        ours, theirs = model.score(arrays), onnx_scorer.score(onnx_scorer.open_session(tmp_path / MODEL_FILE), arrays)
        assert ours == pytest.approx(np.asarray(expected), rel=1e-6, abs=1e-6)
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() / inputs.label_std <= PARITY
    write_portable(tmp_path, encoder)
    portable = score_portable(onnx_scorer.open_session(tmp_path / "portable.onnx"), encoder, table)
    assert np.abs(portable - theirs).max() / inputs.label_std <= PARITY
    graph = onnx.load(tmp_path / MODEL_FILE).graph
    assert [node.name for node in graph.output] == ["scores"]
    assert {node.name for node in graph.input} == {name for name, value in arrays.items() if value.shape[1]}
