"""Models that misbehave, as bundles: one that does not come back, one that always fails, one that eats memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from features.manifest import MODEL_FILE
from tests.factories.deployments.bundles import Slope, write_bundle

TURNS = 10_000_000
"""Of an empty loop within the graph: half a minute."""
MEALS = 4_000
"""Half a MiB each."""


def hanging(folder: Path) -> Path:
    """A bundle that loads and warms up, and does not come back from a row whose distance is below 1e6 and not zero."""
    write_bundle(folder, Slope(1.0))
    save(folder, _graph(_turns()))
    return folder


def raising(folder: Path) -> Path:
    """A bundle that loads and warms up, and fails on any row whose distance is not zero."""
    write_bundle(folder, Slope(1.0))
    save(folder, _graph(_out_of_range()))
    return folder


def leaking(folder: Path) -> Path:
    """A bundle that loads and warms up, and takes 2 GiB, bit by bit, for any row whose distance is not zero."""
    write_bundle(folder, Slope(1.0))
    save(folder, _graph(_meals()))
    return folder


def save(folder: Path, model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model)
    onnx.save(model, str(folder / MODEL_FILE))


def _graph(misbehavior: list[onnx.NodeProto]) -> onnx.ModelProto:
    """scores = 0.5 for each row; ``misbehavior`` makes ``extra`` [1], which depends on whether a number is nonzero."""
    first = [
        helper.make_node("ReduceSumSquare", ["numbers"], ["squares"], keepdims=0),
        helper.make_node("Greater", ["squares", "zero"], ["asked"]),
    ]
    last = [
        helper.make_node("Slice", ["numbers", "start", "stop", "axis"], ["first"]),
        helper.make_node("Squeeze", ["first", "axis"], ["column"]),
        helper.make_node("Mul", ["column", "zero"], ["zeros"]),
        helper.make_node("Add", ["zeros", "half"], ["halves"]),
        helper.make_node("Add", ["halves", "extra"], ["scores"]),
    ]
    constants = {
        "zero": np.float32(0.0),
        "half": np.float32(0.5),
        "start": np.array([0], np.int64),
        "stop": np.array([1], np.int64),
        "axis": np.array([1], np.int64),
    }
    graph = helper.make_graph(
        [*first, *misbehavior, *last],
        "misbehaves",
        [helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["rows", None])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _turns() -> list[onnx.NodeProto]:
    """A loop of TURNS turns when asked, of none otherwise."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Identity", ["sum_in"], ["sum_out"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_in", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_out", TensorProto.FLOAT, []),
        ],
    )
    most = numpy_helper.from_array(np.asarray(TURNS, np.int64))
    return [
        helper.make_node("Constant", [], ["most"], value=most),
        helper.make_node("Loop", ["most", "asked", "zero"], ["extra"], body=body),
    ]


def _meals() -> list[onnx.NodeProto]:
    """A loop of MEALS turns when asked, of none otherwise; it keeps what each turn makes until the last."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Cast", ["i"], ["turn"], to=TensorProto.FLOAT),
            helper.make_node("Constant", [], ["size"], value=numpy_helper.from_array(np.array([128 * 1024], np.int64))),
            helper.make_node("Expand", ["turn", "size"], ["meal"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("meal", TensorProto.FLOAT, [128 * 1024]),
        ],
    )
    most = numpy_helper.from_array(np.asarray(MEALS, np.int64))
    return [
        helper.make_node("Constant", [], ["most"], value=most),
        helper.make_node("Loop", ["most", "asked"], ["meals"], body=body),
        helper.make_node("ReduceSum", ["meals"], ["eaten"], keepdims=0),
        helper.make_node("Mul", ["eaten", "zero"], ["extra"]),
    ]


def _out_of_range() -> list[onnx.NodeProto]:
    """An index that exists only when not asked."""
    return [
        helper.make_node("Cast", ["asked"], ["index"], to=TensorProto.INT64),
        helper.make_node("Constant", [], ["list"], value=numpy_helper.from_array(np.zeros(1, np.float32))),
        helper.make_node("Gather", ["list", "index"], ["extra"]),
    ]
