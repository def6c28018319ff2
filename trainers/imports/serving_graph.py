"""An imported ONNX graph behind the inputs and the output that every model of rayloop has. Pure.

The column adapters use operators that are the same in every opset since 9 (Cast to and from strings, Gather, Concat,
Reshape): the graph keeps its own opset.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from cluster.errors import DataError
from cluster.values import Task
from features.encoder import Encoder
from trainers.imports.source_model import MISSING_TEXT, pick_outputs

if TYPE_CHECKING:
    from trainers.imports.onnx_source import GraphInput, OnnxSource

_PREFIX = "source/"
_BATCH = "batch"
_ML_DOMAIN, _ML_OPSET = "ai.onnx.ml", 2
_MIN_OPSET, _MIN_IR = 9, 8


class _Parts(NamedTuple):
    nodes: list[onnx.NodeProto]
    constants: dict[str, np.ndarray]


def write_serving_graph(source: OnnxSource, encoder: Encoder, task: Task) -> bytes:
    """Write a model as one graph from encoded rows to scores.

    Args:
        source: The model.
        encoder: How rows are encoded; it has all columns of the model.
        task: What the scores are of.

    Raises:
        DataError: The graph is of a version that cannot be extended.
    """
    _require_versions(source.model)
    model = compose.add_prefix(_without_zip_map(source), _PREFIX)
    parts = _Parts([], {})
    for each, columns in source.blocks:
        _append_input(parts, each, columns, encoder)
    tail = _score_nodes(source, task, parts)
    shape: list[str | int] = [_BATCH, task.outputs] if task.wide else [_BATCH]
    used = {name for node in parts.nodes for name in node.input}
    kinds = (("numbers", TensorProto.FLOAT, encoder.width), ("codes", TensorProto.INT64, len(encoder.categories)))
    graph = helper.make_graph(
        [*parts.nodes, *model.graph.node, *tail],
        "imported",
        [helper.make_tensor_value_info(name, kind, [_BATCH, width]) for name, kind, width in kinds if name in used],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape)],
        [
            *model.graph.initializer,
            *(numpy_helper.from_array(values, name) for name, values in parts.constants.items()),
        ],
        sparse_initializer=list(model.graph.sparse_initializer),
    )
    served = helper.make_model(
        graph, opset_imports=_opsets(model), ir_version=max(model.ir_version, _MIN_IR), functions=list(model.functions)
    )
    return bytes(served.SerializeToString())


def _require_versions(model: onnx.ModelProto) -> None:
    version = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=_MIN_OPSET)
    if version < _MIN_OPSET:
        raise DataError("data.import_opset", version=version, minimum=_MIN_OPSET)


def _opsets(model: onnx.ModelProto) -> list[onnx.OperatorSetIdProto]:
    """The graph's own operator sets. Of ONNX-ML the first one has another LabelEncoder than portable.onnx needs."""
    opsets = [each for each in model.opset_import if each.domain != _ML_DOMAIN]
    version = max((each.version for each in model.opset_import if each.domain == _ML_DOMAIN), default=0)
    if version == 1 and any(node.op_type == "LabelEncoder" for node in model.graph.node):
        raise DataError("data.import_opset", version=f"{_ML_DOMAIN} 1", minimum=f"{_ML_DOMAIN} {_ML_OPSET}")
    if not any(each.domain in ("", "ai.onnx") for each in opsets):
        opsets.append(helper.make_opsetid("", _MIN_OPSET))
    return [*opsets, *([helper.make_opsetid(_ML_DOMAIN, max(version, _ML_OPSET))] if version else [])]


def _without_zip_map(source: OnnxSource) -> onnx.ModelProto:
    """The model without nodes that only its other outputs need: maps are no tensors."""
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    kept: list[onnx.NodeProto] = []
    needed = {source.output.name}
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input) | set(_outer_names(node))
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    return model


def _outer_names(node: onnx.NodeProto) -> Iterator[str]:
    """Names that the inner graphs of a node read."""
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                yield from inner.input
                yield from _outer_names(inner)


def _append_input(parts: _Parts, each: GraphInput, columns: tuple[str, ...], encoder: Encoder) -> None:
    """Nodes that give an input of the model from encoded rows."""
    name, before = f"{_PREFIX}{each.name}", f"input/{each.name}"
    if each.type == TensorProto.STRING:
        texts = [_append_texts(parts, column, encoder) for column in columns]
        parts.nodes.append(helper.make_node("Concat", texts, [before], axis=1))
    else:
        parts.constants[f"{before}/columns"] = np.array([encoder.numbers.index(c) for c in columns], np.int64)
        parts.nodes.append(helper.make_node("Gather", ["numbers", f"{before}/columns"], [f"{before}/floats"], axis=1))
        parts.nodes.append(helper.make_node("Cast", [f"{before}/floats"], [before], to=each.type))
    parts.constants[f"{before}/shape"] = np.array([-1, len(columns)] if each.rank == 2 else [-1], np.int64)
    parts.nodes.append(helper.make_node("Reshape", [before, f"{before}/shape"], [name]))


def _append_texts(parts: _Parts, column: str, encoder: Encoder) -> str:
    """The texts of a category, [n, 1]; all that the model does not know are one text."""
    known = encoder.vocabularies[column]
    unknown = "?"
    while unknown in known:
        unknown += "?"
    name = f"column/{column}"
    parts.constants[f"{name}/texts"] = np.array([MISSING_TEXT, unknown, *known], object)
    parts.constants[f"{name}/position"] = np.array([encoder.categories.index(column)], np.int64)
    parts.nodes.append(helper.make_node("Gather", ["codes", f"{name}/position"], [f"{name}/codes"], axis=1))
    parts.nodes.append(helper.make_node("Gather", [f"{name}/texts", f"{name}/codes"], [name], axis=0))
    return name


def _score_nodes(source: OnnxSource, task: Task, parts: _Parts) -> list[onnx.NodeProto]:
    """Nodes from the model's output to the scores."""
    width = source.output_width
    picked = pick_outputs(task, source.signature.classes, width)
    assert picked is not None
    parts.constants["output/shape"] = np.array([-1, width], np.int64)
    parts.constants["output/picked"] = np.array(picked, np.int64)
    parts.constants["output/scores"] = np.array([-1, task.outputs] if task.wide else [-1], np.int64)
    return [
        helper.make_node("Cast", [_PREFIX + source.output.name], ["output/floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["output/floats", "output/shape"], ["output/rows"]),
        helper.make_node("Gather", ["output/rows", "output/picked"], ["output/chosen"], axis=1),
        helper.make_node("Reshape", ["output/chosen", "output/scores"], ["scores"]),
    ]
