"""Graphs are read whole: weights in files beside a graph become part of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cluster.errors import DataError
from tests.factories.errors import raises
from trainers.imports.onnx_source import OnnxSource, read_graph

WEIGHTS = "model.onnx.data"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A graph whose weights are in a file beside it, as PyTorch and MLflow write one."""
    row = helper.make_tensor_value_info("row", TensorProto.FLOAT, ["n", 3])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 1])
    weights = numpy_helper.from_array(np.array([[1.0], [2.0], [3.0]], np.float32), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["row", "weights"], ["scores"])], "linear", [row], [scores], [weights]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = tmp_path / "model.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location=WEIGHTS, size_threshold=0)
    assert (tmp_path / WEIGHTS).exists()
    return path


def test_weights_beside_a_graph_become_part_of_it(path: Path) -> None:
    content = read_graph(path)
    (path.parent / WEIGHTS).unlink()
    (weights,) = OnnxSource(content).model.graph.initializer
    assert numpy_helper.to_array(weights).ravel().tolist() == [1.0, 2.0, 3.0]


def test_graph_without_its_weights_is_refused(path: Path) -> None:
    (path.parent / WEIGHTS).unlink()
    with raises(DataError, "data.import_unreadable", format="ONNX"):
        read_graph(path)


def test_graph_with_its_weights_keeps_its_bytes(path: Path) -> None:
    content = read_graph(path)
    whole = path.with_name("whole.onnx")
    whole.write_bytes(content)
    assert read_graph(whole) == content
