"""An ONNX model of any origin: its inputs and outputs, and its own scores. Pure apart from ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import polars as pl
from google.protobuf.message import DecodeError
from onnx import TensorProto
from onnx.external_data_helper import uses_external_data

from cluster.errors import DataError
from cluster.values import Task
from features.definitions import Column
from features.encoder import Encoder
from trainers.imports.serving_graph import write_serving_graph
from trainers.imports.source_model import MISSING_TEXT, InputKind, Signature
from trainers.scoring.onnx_scorer import open_session

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
_TYPES: dict[int, type] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.FLOAT16: np.float16,
    TensorProto.INT64: np.int64,
    TensorProto.INT32: np.int32,
    TensorProto.BOOL: np.bool_,
}
_PROBABILITIES = ("prob", "score")
_CLASS_ATTRIBUTES = ("classlabels_strings", "classlabels_ints", "classlabels_int64s")


def read_graph(path: Path) -> bytes:
    """Read a graph with all its weights: those that are in files beside it become part of it.

    Raises:
        DataError: It is no graph, or a file beside it is missing.
    """
    content = path.read_bytes()
    try:
        if any(map(uses_external_data, onnx.load_from_string(content).graph.initializer)):
            content = onnx.load(path).SerializeToString()
    except DecodeError as error:
        raise DataError("data.import_unreadable", format="ONNX", reason="it is no ONNX file") from error
    # A graph beyond 2 GiB is a ValueError, and one whose files are missing a ValidationError of ONNX's checker.
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise DataError("data.import_unreadable", format="ONNX", reason=str(error).splitlines()[0]) from error
    return content


class GraphInput(NamedTuple):
    """An input of a graph: a tensor of one or several columns."""

    name: str
    type: int
    """``TensorProto.DataType``."""
    rank: int
    columns: int
    """Columns of the tensor; 0: any number."""

    @property
    def kind(self) -> InputKind:
        """Kind of its columns."""
        return "category" if self.type == TensorProto.STRING else "number"


class GraphOutput(NamedTuple):
    """The output of a graph that holds the scores."""

    name: str
    """Of the tensor."""
    classes: tuple[str, ...]


class OnnxSource:
    """An ONNX model (trainers.imports.source_model.SourceModel).

    Args:
        content: The file.
        output: The output with the scores; empty: the one that can only be it.
        names: Names of the input columns; empty: those of its inputs, where each input is a column.

    Raises:
        DataError: It is no ONNX model, or its inputs are no columns, or its outputs no scores.
    """

    format = "onnx"

    def __init__(self, content: bytes, output: str = "", names: tuple[str, ...] = ()) -> None:
        self._content, self._output = content, output
        try:
            self.model = onnx.load_from_string(content)
            self._session = open_session(content)
        except DecodeError as error:
            raise DataError("data.import_unreadable", format="ONNX", reason="it is no ONNX file") from error
        # ONNX Runtime has a class of error for each of its codes, with no common one.
        except Exception as error:
            raise DataError("data.import_unreadable", format="ONNX", reason=str(error).splitlines()[0]) from error
        self.inputs = tuple(map(_graph_input, _inputs(self.model.graph)))
        self.output = _choose_output(self.model.graph, output)
        width = sum(each.columns for each in self.inputs) if all(each.columns for each in self.inputs) else 0
        named = all(each.columns == 1 for each in self.inputs) and len(self.inputs) > 1
        own = tuple(each.name for each in self.inputs) if named else ()
        if names and width and len(names) != width:
            raise DataError("data.import_width", inputs=width, columns=len(names), names=list(names))
        if not width and len(self.inputs) > 1:
            raise DataError("data.import_input", name=self.inputs[0].name, reason="it has any number of columns")
        names = names or own
        kinds = {name: each.kind for name, each in zip(names, self._input_of_column(len(names)), strict=False)}
        is_classifier = True if self.output.classes else None
        self.signature = Signature(names, width, kinds, self.output.classes, is_classifier)

    def with_names(self, names: tuple[str, ...]) -> OnnxSource:
        """The same model with names for its input columns."""
        return OnnxSource(self._content, self._output, names)

    def with_classes(self, classes: tuple[str, ...]) -> OnnxSource:
        """The same model with names for its classes, in the order of its outputs."""
        source = copy(self)
        source.signature = self.signature._replace(classes=classes)
        return source

    def vocabularies(self, columns: tuple[Column, ...]) -> dict[str, tuple[str, ...]]:
        """All texts of the graph, for each category: it treats the others alike."""
        texts = tuple(sorted(set(_texts(self.model.graph)) - {MISSING_TEXT}))
        return {column.name: texts for column in columns if column.kind == "category"}

    def outputs(self, rows: pl.DataFrame) -> np.ndarray:
        """What the model returns for rows."""
        feeds = {each.name: _feed(each, rows.select(columns)) for each, columns in self.blocks}
        values = np.asarray(self._result(feeds), np.float64)
        if values.ndim == 0 or len(values) != rows.height:
            reason = f"output {self.output.name!r} has not one row for each row given"
            raise DataError("data.import_not_scores", kind="known", reason=reason)
        return values.reshape(rows.height, -1)

    def to_onnx(self, encoder: Encoder, task: Task) -> bytes:
        """The model behind the inputs that every model of rayloop has."""
        return write_serving_graph(self, encoder, task)

    @cached_property
    def blocks(self) -> tuple[tuple[GraphInput, tuple[str, ...]], ...]:
        """The inputs, each with its columns."""
        if len(self.inputs) == 1:
            return ((self.inputs[0], self.signature.names),)
        at, blocks = 0, []
        for each in self.inputs:
            blocks.append((each, self.signature.names[at : at + each.columns]))
            at += each.columns
        return tuple(blocks)

    @cached_property
    def output_width(self) -> int:
        """Columns of the output, by a row of zeros and missing texts."""
        columns = self.signature.names
        row = pl.DataFrame({name: [0.0] for name in columns}).with_columns(
            pl.lit(MISSING_TEXT).alias(name) for name in columns if self.signature.kinds[name] == "category"
        )
        return int(self.outputs(row).shape[1])

    def _input_of_column(self, width: int) -> Iterator[GraphInput]:
        for each in self.inputs:
            yield from [each] * (each.columns or width)

    def _result(self, feeds: dict[str, np.ndarray]) -> object:
        """The tensor of the output, also where the graph returns it as a sequence of maps."""
        outputs = [node.name for node in self._session.get_outputs()]
        try:
            if self.output.name in outputs:
                return self._session.run([self.output.name], feeds)[0]
            zipped = next(node for node in self.model.graph.node if self.output.name in node.input)
            maps = self._session.run([zipped.output[0]], feeds)[0]
        except Exception as error:
            raise DataError("data.import_fails", reason=str(error).splitlines()[0]) from error
        named = ({str(name): value for name, value in each.items()} for each in maps)
        return [[each[name] for name in self.output.classes] for each in named]


def _inputs(graph: onnx.GraphProto) -> Iterable[onnx.ValueInfoProto]:
    """The inputs that have no value of their own."""
    constants = {each.name for each in graph.initializer}
    return [each for each in graph.input if each.name not in constants]


def _graph_input(info: onnx.ValueInfoProto) -> GraphInput:
    tensor = info.type.tensor_type
    sizes = [dim.dim_value for dim in tensor.shape.dim]
    if not info.type.HasField("tensor_type") or tensor.elem_type not in (*_TYPES, TensorProto.STRING):
        raise DataError("data.import_input", name=info.name, reason="it is no tensor of numbers or texts")
    if len(sizes) not in (1, 2):
        raise DataError("data.import_input", name=info.name, reason=f"its shape has {len(sizes)} dimensions")
    if sizes[0] > 0:
        raise DataError("data.import_input", name=info.name, reason=f"it takes exactly {sizes[0]} rows")
    return GraphInput(info.name, tensor.elem_type, len(sizes), sizes[1] if len(sizes) == 2 else 1)


def _choose_output(graph: onnx.GraphProto, name: str) -> GraphOutput:
    """The output with the scores: the one that is named, the only one of floats, or the only one of probabilities."""
    by_name = {output.name: scores for output in graph.output if (scores := _as_scores(graph, output))}
    if not by_name:
        raise DataError("data.import_no_scores", outputs=[output.name for output in graph.output])
    if name and name not in by_name:
        raise DataError("data.import_output", output=name, outputs=list(by_name))
    likely = [output for output in by_name if any(word in output.lower() for word in _PROBABILITIES)]
    candidates = [name] if name else list(by_name) if len(by_name) == 1 else likely
    if len(candidates) != 1:
        raise DataError("data.import_output", output=name or "not named", outputs=list(by_name))
    return by_name[candidates[0]]


def _as_scores(graph: onnx.GraphProto, output: onnx.ValueInfoProto) -> GraphOutput | None:
    """An output of floats, or of maps from classes to floats; None: it is neither."""
    if output.type.HasField("sequence_type"):
        zipped = next((node for node in graph.node if node.op_type == "ZipMap" and output.name in node.output), None)
        return GraphOutput(zipped.input[0], _classes([zipped])) if zipped else None
    tensor = output.type.tensor_type
    if tensor.elem_type not in FLOATS or len(tensor.shape.dim) > 2:
        return None
    return GraphOutput(output.name, _classes(graph.node))


def _classes(nodes: Iterable[onnx.NodeProto]) -> tuple[str, ...]:
    """The classes that a graph names, if all nodes that name some agree."""
    known = {
        tuple(v.decode() if isinstance(v, bytes) else str(v) for v in (*attribute.strings, *attribute.ints))
        for node in nodes
        for attribute in node.attribute
        if attribute.name in _CLASS_ATTRIBUTES
    } - {()}
    return known.pop() if len(known) == 1 else ()


def _texts(graph: onnx.GraphProto) -> Iterator[str]:
    """All texts in a graph: values of constants and of attributes."""
    for tensor in graph.initializer:
        yield from _tensor_texts(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (value.decode(errors="replace") for value in attribute.strings)
            yield from _tensor_texts(attribute.t)
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _texts(inner)


def _tensor_texts(tensor: onnx.TensorProto) -> Iterator[str]:
    if tensor.data_type == TensorProto.STRING:
        yield from (value.decode(errors="replace") for value in tensor.string_data)


def _feed(each: GraphInput, rows: pl.DataFrame) -> np.ndarray:
    if each.type == TensorProto.STRING:
        values = rows.with_columns(pl.all().fill_null(MISSING_TEXT)).to_numpy().astype(object)
    else:
        values = rows.select(pl.all().cast(pl.Float64)).to_numpy().astype(_TYPES[each.type])
    return values if each.rank == 2 else values[:, 0]
