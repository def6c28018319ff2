"""The served model with its encoders inside the graph, for whoever takes it elsewhere: columns in by name, scores out.

One ONNX input for each column of the encoder: number float32 [n] (NaN for missing), tensor float32 [n, *shape], category
string [n]. ONNX has no missing text: the one under ``MISSING_KEY`` in the model's metadata stands for it, the empty text
unless a vocabulary holds that. The look-up is ONNX-ML's LabelEncoder (https://onnx.ai/onnx/operators/onnx_aionnxml_LabelEncoder.html).
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
from features.encoder import FIRST_CODE, MISSING_CODE, UNKNOWN_CODE, Encoder
from features.manifest import MODEL_FILE, PORTABLE_FILE

MISSING_KEY = "missing_category"
_PREFIX = "model/"
_FRONT = "encoded/"
_ML_DOMAIN, _ML_OPSET = "ai.onnx.ml", 2
_BATCH = "batch"


class _Part(NamedTuple):
    """What a column adds to the graph; its last node gives [n, width] under the name ``output``."""

    input: onnx.ValueInfoProto
    nodes: list[onnx.NodeProto]
    shape: onnx.TensorProto
    output: str


def write_portable(folder: Path, encoder: Encoder) -> None:
    """Write portable.onnx beside the model.onnx of ``folder``, from it."""
    model = compose.add_prefix(onnx.load(folder / MODEL_FILE), _PREFIX)
    wanted = [node.name.removeprefix(_PREFIX) for node in model.graph.input]
    front = _front(encoder, wanted, model)
    merged = compose.merge_models(front, model, io_map=[(_FRONT + name, _PREFIX + name) for name in wanted])
    _rename_output(merged, encoder)
    helper.set_model_props(merged, {MISSING_KEY: missing_text(encoder)})
    onnx.checker.check_model(merged)
    onnx.save(merged, folder / PORTABLE_FILE)


def missing_text(encoder: Encoder) -> str:
    """The text that stands for a missing category; no vocabulary holds it."""
    known = {value for vocabulary in encoder.vocabularies.values() for value in vocabulary}
    text = ""
    while text in known:
        text += "?"
    return text


def portable_inputs(encoder: Encoder, frame: pa.Table) -> dict[str, np.ndarray]:
    """The columns of a feature frame as the portable model takes them."""
    missing, rows = missing_text(encoder), frame.num_rows
    numbers = encoder.encode(frame)["numbers"]
    fed: dict[str, np.ndarray] = {name: numbers[:, i] for i, name in enumerate(encoder.numbers)}
    at = len(fed)
    for column in encoder.tensors:
        size = int(np.prod(column.shape))
        fed[column.name] = numbers[:, at : at + size].reshape(rows, *column.shape)
        at += size
    for name in encoder.categories:
        fed[name] = frame[name].cast(pa.string()).fill_null(missing).to_numpy().astype(object)
    return fed


def score_portable(model: ort.InferenceSession, encoder: Encoder, frame: pa.Table) -> np.ndarray:
    """Scores of a feature frame by the portable model, float32, in the convention of contracts.Task."""
    names = {node.name for node in model.get_inputs()}
    fed = {name: value for name, value in portable_inputs(encoder, frame).items() if name in names}
    return np.asarray(model.run(None, fed)[0])


def _front(encoder: Encoder, wanted: list[str], model: onnx.ModelProto) -> onnx.ModelProto:
    """The encoders as a model of its own, of the same ONNX version as ``model``."""
    parts = {
        "numbers": [_floats(c) for c in (*_numbers(encoder), *encoder.tensors)],
        "codes": [_lookup(name, encoder.vocabularies[name], missing_text(encoder)) for name in encoder.categories],
    }
    used = [part for name in wanted for part in parts[name]]
    joined = [helper.make_node("Concat", [p.output for p in parts[name]], [_FRONT + name], axis=1) for name in wanted]
    kinds = {"numbers": TensorProto.FLOAT, "codes": TensorProto.INT64}
    outputs = [helper.make_tensor_value_info(_FRONT + name, kinds[name], [_BATCH, None]) for name in wanted]
    graph = helper.make_graph(
        [node for part in used for node in part.nodes] + joined,
        "encoders",
        [part.input for part in used],
        outputs,
        [part.shape for part in used],
    )
    opsets = [*model.opset_import, helper.make_opsetid(_ML_DOMAIN, _ML_OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)


def _numbers(encoder: Encoder) -> list[Column]:
    return [c for c in encoder.columns if c.kind == "number"]


def _floats(column: Column) -> _Part:
    taken = helper.make_tensor_value_info(column.name, TensorProto.FLOAT, [_BATCH, *column.shape])
    return _flattened(taken, column.name, [], int(np.prod(column.shape)))


def _lookup(name: str, vocabulary: tuple[str, ...], missing: str) -> _Part:
    taken = helper.make_tensor_value_info(name, TensorProto.STRING, [_BATCH])
    node = helper.make_node(
        "LabelEncoder",
        [name],
        [f"{name}/code"],
        domain=_ML_DOMAIN,
        keys_strings=[missing, *vocabulary],
        values_int64s=[MISSING_CODE, *range(FIRST_CODE, FIRST_CODE + len(vocabulary))],
        default_int64=UNKNOWN_CODE,
    )
    return _flattened(taken, f"{name}/code", [node], 1)


def _flattened(taken: onnx.ValueInfoProto, source: str, nodes: list[onnx.NodeProto], width: int) -> _Part:
    shape = helper.make_tensor(f"{taken.name}/shape", TensorProto.INT64, [2], [-1, width])
    output = f"{taken.name}/flat"
    return _Part(taken, [*nodes, helper.make_node("Reshape", [source, shape.name], [output])], shape, output)


def _rename_output(model: onnx.ModelProto, encoder: Encoder) -> None:
    """Call the output "scores", or "scores_" where a column has that name."""
    name = "scores_" if any(c.name == "scores" for c in encoder.columns) else "scores"
    output = model.graph.output[0]
    model.graph.node.append(helper.make_node("Identity", [output.name], [name]))
    output.name = name
