"""Bundles of faulty models: one that does not return, one that always fails, one that leaks memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from features.manifest import MODEL_FILE
from tests.factories.deployments.bundles import Slope, write_bundle

CPU_ITERATIONS = 10_000_000
"""Of an empty loop within the graph: half a minute."""
MEMORY_ITERATIONS = 4_000
"""Half a MiB each."""


def hanging(folder: Path) -> Path:
    """A bundle that loads and warms up, and does not return for a row whose distance is below 1e6 and not zero."""
    write_bundle(folder, Slope(1.0))
    save(folder, _graph(_cpu_loop()))
    return folder


def raising(folder: Path) -> Path:
    """A bundle that loads and warms up, and fails on any row whose distance is not zero."""
    write_bundle(folder, Slope(1.0))
    save(folder, _graph(_out_of_range()))
    return folder


def leaking(folder: Path) -> Path:
    """A bundle that loads and warms up, and allocates 2 GiB, step by step, for any row whose distance is not zero."""
    write_bundle(folder, Slope(1.0))
    save(folder, _graph(_memory_loop()))
    return folder


def save(folder: Path, model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model)
    onnx.save(model, str(folder / MODEL_FILE))


def _graph(fault: list[onnx.NodeProto]) -> onnx.ModelProto:
    """scores = 0.5 for each row; ``fault`` makes ``extra`` [1], which depends on whether a number is nonzero."""
    first = [
        helper.make_node("ReduceSumSquare", ["numbers"], ["squares"], keepdims=0),
        helper.make_node("Greater", ["squares", "zero"], ["nonzero"]),
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
        [*first, *fault, *last],
        "faulty",
        [helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["rows", None])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _cpu_loop() -> list[onnx.NodeProto]:
    """A loop of CPU_ITERATIONS when a number is nonzero, else of none."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Identity", ["sum_in"], ["sum_out"]),
        ],
        "iteration",
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
    most = numpy_helper.from_array(np.asarray(CPU_ITERATIONS, np.int64))
    return [
        helper.make_node("Constant", [], ["most"], value=most),
        helper.make_node("Loop", ["most", "nonzero", "zero"], ["extra"], body=body),
    ]


def _memory_loop() -> list[onnx.NodeProto]:
    """A loop of MEMORY_ITERATIONS when a number is nonzero, else of none; every iteration's output stays in memory."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Cast", ["i"], ["iteration"], to=TensorProto.FLOAT),
            helper.make_node("Constant", [], ["size"], value=numpy_helper.from_array(np.array([128 * 1024], np.int64))),
            helper.make_node("Expand", ["iteration", "size"], ["output"]),
        ],
        "iteration",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("output", TensorProto.FLOAT, [128 * 1024]),
        ],
    )
    most = numpy_helper.from_array(np.asarray(MEMORY_ITERATIONS, np.int64))
    return [
        helper.make_node("Constant", [], ["most"], value=most),
        helper.make_node("Loop", ["most", "nonzero"], ["outputs"], body=body),
        helper.make_node("ReduceSum", ["outputs"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["extra"]),
    ]


def _out_of_range() -> list[onnx.NodeProto]:
    """An index that is out of range when a number is nonzero."""
    return [
        helper.make_node("Cast", ["nonzero"], ["index"], to=TensorProto.INT64),
        helper.make_node("Constant", [], ["list"], value=numpy_helper.from_array(np.zeros(1, np.float32))),
        helper.make_node("Gather", ["list", "index"], ["extra"]),
    ]
