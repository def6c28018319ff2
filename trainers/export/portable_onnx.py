"""The served model with its encoders inside the graph, for use outside rayloop: columns by name in, scores out.

One ONNX input for each column of the encoder: number float32 [n] (NaN is missing), tensor float32 [n, *shape], category
string [n]. ONNX has no missing string: the one under ``MISSING_KEY`` in the model's metadata stands for it, the empty
string unless a vocabulary contains that. The lookup is ONNX-ML's LabelEncoder
(https://onnx.ai/onnx/operators/onnx_aionnxml_LabelEncoder.html).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import pyarrow as pa
from onnx import TensorProto, compose, helper

from features.definitions import Column
from features.encoder import FIRST_CODE, MISSING_CODE, UNKNOWN_CODE, Encoder, tensor_slices
from features.manifest import MODEL_FILE, PORTABLE_FILE

MISSING_KEY = "missing_category"
_MODEL_PREFIX = "model/"
_ENCODER_PREFIX = "encoded/"
_ML_DOMAIN, _ML_OPSET = "ai.onnx.ml", 2
_BATCH = "batch"


class _ColumnGraph(NamedTuple):
    """A column's part of the graph; its last node returns [n, width] under the name ``output``."""

    input: onnx.ValueInfoProto
    nodes: list[onnx.NodeProto]
    shape: onnx.TensorProto
    output: str


def write_portable(folder: Path, encoder: Encoder) -> None:
    """Write portable.onnx from the model.onnx in ``folder``, with the encoders in front."""
    model = compose.add_prefix(onnx.load(folder / MODEL_FILE), _MODEL_PREFIX)
    names = [node.name.removeprefix(_MODEL_PREFIX) for node in model.graph.input]
    encoders = _encoders(encoder, names, model)
    merged = compose.merge_models(
        encoders, model, io_map=[(_ENCODER_PREFIX + name, _MODEL_PREFIX + name) for name in names]
    )
    _rename_output(merged, encoder)
    helper.set_model_props(merged, {MISSING_KEY: missing_text(encoder)})
    onnx.checker.check_model(merged)
    onnx.save(merged, folder / PORTABLE_FILE)


def missing_text(encoder: Encoder) -> str:
    """The string that stands for a missing category; no vocabulary contains it."""
    known = {value for vocabulary in encoder.vocabularies.values() for value in vocabulary}
    text = ""
    while text in known:
        text += "?"
    return text


def portable_inputs(encoder: Encoder, frame: pa.Table) -> dict[str, np.ndarray]:
    """Inputs of the portable model for the rows of a feature frame, by column."""
    missing, rows = missing_text(encoder), frame.num_rows
    numbers = encoder.encode(frame)["numbers"]
    inputs: dict[str, np.ndarray] = {name: numbers[:, i] for i, name in enumerate(encoder.numbers)}
    for column, place in tensor_slices(encoder.tensors, len(inputs)):
        inputs[column.name] = numbers[:, place].reshape(rows, *column.shape)
    for name in encoder.categories:
        inputs[name] = frame[name].cast(pa.string()).fill_null(missing).to_numpy().astype(object)
    return inputs


def score_portable(model: ort.InferenceSession, encoder: Encoder, frame: pa.Table) -> np.ndarray:
    """Scores of a feature frame by the portable model, float32 (cluster.values.Task)."""
    names = {node.name for node in model.get_inputs()}
    inputs = {name: value for name, value in portable_inputs(encoder, frame).items() if name in names}
    return np.asarray(model.run(None, inputs)[0])


def _encoders(encoder: Encoder, names: list[str], model: onnx.ModelProto) -> onnx.ModelProto:
    """The encoders as a separate model of the same ONNX version as ``model``."""
    parts = {
        "numbers": [_floats(c) for kind in ("number", "tensor") for c in encoder.columns if c.kind == kind],
        "codes": [_lookup(name, encoder.vocabularies[name], missing_text(encoder)) for name in encoder.categories],
    }
    used = [part for name in names for part in parts[name]]
    joined = [
        helper.make_node("Concat", [p.output for p in parts[name]], [_ENCODER_PREFIX + name], axis=1) for name in names
    ]
    kinds = {"numbers": TensorProto.FLOAT, "codes": TensorProto.INT64}
    outputs = [helper.make_tensor_value_info(_ENCODER_PREFIX + name, kinds[name], [_BATCH, None]) for name in names]
    graph = helper.make_graph(
        [node for part in used for node in part.nodes] + joined,
        "encoders",
        [part.input for part in used],
        outputs,
        [part.shape for part in used],
    )
    # A forest uses ONNX-ML itself; LabelEncoder is the same in its version.
    known = any(each.domain == _ML_DOMAIN for each in model.opset_import)
    opsets = [*model.opset_import, *([] if known else [helper.make_opsetid(_ML_DOMAIN, _ML_OPSET)])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)


def _floats(column: Column) -> _ColumnGraph:
    source = helper.make_tensor_value_info(column.name, TensorProto.FLOAT, [_BATCH, *column.shape])
    return _flatten(source, column.name, [], int(np.prod(column.shape)))


def _lookup(name: str, vocabulary: tuple[str, ...], missing: str) -> _ColumnGraph:
    source = helper.make_tensor_value_info(name, TensorProto.STRING, [_BATCH])
    node = helper.make_node(
        "LabelEncoder",
        [name],
        [f"{name}/code"],
        domain=_ML_DOMAIN,
        keys_strings=[missing, *vocabulary],
        values_int64s=[MISSING_CODE, *range(FIRST_CODE, FIRST_CODE + len(vocabulary))],
        default_int64=UNKNOWN_CODE,
    )
    return _flatten(source, f"{name}/code", [node], 1)


def _flatten(source: onnx.ValueInfoProto, value: str, nodes: list[onnx.NodeProto], width: int) -> _ColumnGraph:
    shape = helper.make_tensor(f"{source.name}/shape", TensorProto.INT64, [2], [-1, width])
    output = f"{source.name}/flat"
    return _ColumnGraph(source, [*nodes, helper.make_node("Reshape", [value, shape.name], [output])], shape, output)


def _rename_output(model: onnx.ModelProto, encoder: Encoder) -> None:
    """Name the output "scores", or "scores_" when a column has that name."""
    name = "scores_" if any(c.name == "scores" for c in encoder.columns) else "scores"
    output = model.graph.output[0]
    model.graph.node.append(helper.make_node("Identity", [output.name], [name]))
    output.name = name
