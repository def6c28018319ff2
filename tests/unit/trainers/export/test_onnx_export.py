"""Exported models give the training module's scores for any input."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from cluster.errors import DataError
from cluster.values import Snapshot, TaskKind
from features.definitions import Column, FeatureSet
from features.encoder import Arrays
from features.manifest import MODEL_FILE, PORTABLE_FILE, WEIGHTS_FILE, Manifest
from tests.factories.errors import raises
from tests.factories.trainers.frames import COLUMNS, frame
from tests.factories.trainers.small_module import Small
from tests.factories.trainers.training import trained
from trainers.config import ModelSpec
from trainers.export.onnx_export import export, save_model
from trainers.export.portable_onnx import MISSING_KEY, missing_text, score_portable
from trainers.loop.trainer import FitResult
from trainers.scoring import onnx_scorer

pytestmark = pytest.mark.long

PARITY = 1e-5


def _both(result: FitResult, folder: Path, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    arrays = result.encoder.encode(table)
    with torch.inference_mode():
        ours = result.build_scorer()(torch.from_numpy(arrays["numbers"]), torch.from_numpy(arrays["codes"])).numpy()
    return ours, onnx_scorer.score(onnx_scorer.open_session(folder / MODEL_FILE), arrays)


@pytest.mark.parametrize(
    ("kind", "columns", "spec", "names"),
    [
        ("binary", COLUMNS, ModelSpec(), ["numbers", "codes"]),
        ("multiclass", COLUMNS, ModelSpec(build=Small), ["numbers", "codes"]),
        ("regression", COLUMNS[:3], ModelSpec(parameters={"norm": "layer"}), ["numbers"]),
        ("binary", COLUMNS[3:4], ModelSpec(build="linear"), ["codes"]),
    ],
)
def test_export_any_task_and_inputs_has_parity(
    kind: TaskKind, columns: tuple[Column, ...], spec: ModelSpec, names: list[str], tmp_path: Path
) -> None:
    result = trained(kind, spec, columns=columns)
    assert export(result, tmp_path, frame(kind, seed=5)) < PARITY
    model = onnx.load(tmp_path / MODEL_FILE)
    assert [node.name for node in model.graph.input] == names
    assert [node.name for node in model.graph.output] == ["scores"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [MODEL_FILE, PORTABLE_FILE, WEIGHTS_FILE]
    for rows in (1, 3):
        ours, theirs = _both(result, tmp_path, frame(kind, rows=rows, seed=9))
        assert ours.shape == theirs.shape == ((rows, 3) if kind == "multiclass" else (rows,))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[FitResult, Path]:
    result, folder = trained(), tmp_path_factory.mktemp("bundle")
    export(result, folder, frame())
    features = FeatureSet(name="all", request=COLUMNS)
    Manifest(
        model="toy",
        task=result.task,
        features=features,
        feature_hash=features.content_hash,
        encoder=result.encoder,
        snapshot=Snapshot(table="t", id=1, rows=1),
        code_version="x",
    ).save(folder)
    return result, folder


number = st.one_of(st.none(), st.floats(width=32), st.sampled_from([math.inf, -math.inf, math.nan]))
row = st.tuples(number, number, number, st.one_of(st.none(), st.text(max_size=5), st.sampled_from(["red", "blue"])))


@given(st.lists(row, min_size=1, max_size=5))
def test_exported_model_scores_any_row_like_module(exported: tuple[FitResult, Path], given_rows: list[tuple]) -> None:
    result, folder = exported
    plain, heavy, gappy, color = zip(*given_rows, strict=True)
    table = pa.table(
        {
            **{n: pa.array(v, pa.float64()) for n, v in (("plain", plain), ("heavy", heavy), ("gappy", gappy))},
            "color": pa.array(color, pa.string()),
            "pixels": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(4 * len(plain), np.float32)), 4),
        }
    )
    ours, theirs = _both(result, folder, table)
    assert np.isfinite(theirs).all()
    assert np.abs(ours - theirs).max() < PARITY


@given(st.lists(row, min_size=1, max_size=5))
def test_portable_model_scores_any_row_like_module(exported: tuple[FitResult, Path], given_rows: list[tuple]) -> None:
    result, folder = exported
    plain, heavy, gappy, color = zip(*given_rows, strict=True)
    # There, the empty text means missing.
    color = [text or None for text in color]
    pixels = np.zeros((len(plain), 2, 2), np.float32)
    numbers = {n: pa.array(v, pa.float64()) for n, v in (("plain", plain), ("heavy", heavy), ("gappy", gappy))}
    flat = pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel()), 4)
    table = pa.table({**numbers, "color": pa.array(color, pa.string()), "pixels": flat})
    model = onnx_scorer.open_session(folder / PORTABLE_FILE)
    missing = model.get_modelmeta().custom_metadata_map[MISSING_KEY]
    feed = {
        n: np.array([math.nan if v is None else v for v in c], np.float32)
        for n, c in zip(numbers, (plain, heavy, gappy), strict=True)
    }
    (theirs,) = model.run(
        ["scores"], feed | {"color": np.array([missing if t is None else t for t in color], object), "pixels": pixels}
    )
    ours, _ = _both(result, folder, table)
    assert np.abs(ours - theirs).max() < PARITY
    assert np.array_equal(score_portable(model, result.encoder, table), theirs)


def test_missing_text_with_empty_string_in_vocabulary_differs(tmp_path: Path) -> None:
    table = frame()
    colors = ["" if c == "red" else c for c in table["color"].to_pylist()]
    table = table.set_column(table.column_names.index("color"), "color", pa.array(colors, pa.string()))
    result = trained(table=table)
    assert missing_text(result.encoder) == "?"
    assert export(result, tmp_path, table) < PARITY


def test_export_with_column_named_scores_renames_output(tmp_path: Path) -> None:
    columns = (Column(name="scores", kind="number"), Column(name="numbers", kind="number"))
    table = frame().rename_columns({"plain": "scores", "heavy": "numbers"})
    assert export(trained(columns=columns, table=table), tmp_path, table) < PARITY
    model = onnx.load(tmp_path / PORTABLE_FILE)
    assert [node.name for node in model.graph.input] == ["scores", "numbers"]
    assert [node.name for node in model.graph.output] == ["scores_"]


def test_exported_weights_equal_state(exported: tuple[FitResult, Path]) -> None:
    result, folder = exported
    loaded = load_file(folder / WEIGHTS_FILE)
    assert loaded.keys() == result.state.keys()
    assert all(np.array_equal(loaded[name], value) for name, value in result.state.items())


def test_save_model_writes_the_graph_of_a_model_that_was_not_trained_here(
    exported: tuple[FitResult, Path], tmp_path: Path
) -> None:
    result, folder = exported
    graph = (folder / MODEL_FILE).read_bytes()

    class Imported:
        def score(self, arrays: Arrays) -> np.ndarray:
            return onnx_scorer.score(onnx_scorer.open_session(graph), arrays)

        def to_onnx(self) -> bytes:
            return graph

    save_model(Imported(), result.inputs, tmp_path / MODEL_FILE)
    assert (tmp_path / MODEL_FILE).read_bytes() == graph


def test_score_table_needs_bundle_only(exported: tuple[FitResult, Path]) -> None:
    result, folder = exported
    table = frame(rows=40_000, seed=2)
    ours, _ = _both(result, folder, table)
    assert np.abs(onnx_scorer.score_table(folder, table) - ours).max() < PARITY
    assert onnx_scorer.score_table(folder, table.slice(0, 0)).shape == (0,)


def test_export_without_rows_raises(tmp_path: Path) -> None:
    with raises(DataError, "data.empty_export_sample"):
        export(trained(), tmp_path, frame().slice(0, 0))
    assert not list(tmp_path.iterdir())


def test_score_table_without_model_file_raises(tmp_path: Path) -> None:
    with raises(DataError, "data.model_file_missing", path=str(tmp_path / MODEL_FILE)):
        onnx_scorer.score_table(tmp_path, frame())
