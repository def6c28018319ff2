"""Linear models and neural networks of scikit-learn as layers: their logits, and their ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper
from scipy.special import expit

from cluster.values import Task
from trainers.input_spec import CLIP_STD, InputSpec
from trainers.trees.forest_onnx import SUMS, model_bytes, score_nodes

_ACTIVATIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "identity": (lambda values: values, "Identity"),
    "relu": (lambda values: np.maximum(values, 0), "Relu"),
    "tanh": (np.tanh, "Tanh"),
    "logistic": (expit, "Sigmoid"),
}


class Layers(NamedTuple):
    """Matrix products with an activation between them."""

    weights: tuple[np.ndarray, ...]
    """[inputs, outputs] of each layer."""
    biases: tuple[np.ndarray, ...]
    activation: str

    def outputs(self, columns: np.ndarray) -> np.ndarray:
        """Logits, or the standardized label, of trainers.estimators.columns.dense_columns, [n, outputs]."""
        values = columns
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = (_ACTIVATIONS[self.activation][0](values) if i else values) @ weight + bias
        return values

    @classmethod
    def join(cls, parts: list[Layers]) -> Layers:
        """Models side by side, the outputs of each behind those of the one before."""
        if len(parts) == 1:
            return parts[0]
        first = np.hstack([part.weights[0] for part in parts])
        deeper = [_block_diagonal(matrices) for matrices in zip(*(part.weights[1:] for part in parts), strict=True)]
        biases = (np.concatenate(each) for each in zip(*(part.biases for part in parts), strict=True))
        return cls((first, *deeper), tuple(biases), parts[0].activation)


def read_layers(estimator: Any) -> Layers:
    """Describe a fitted linear model or neural network."""
    if hasattr(estimator, "coefs_"):
        return Layers(tuple(estimator.coefs_), tuple(estimator.intercepts_), estimator.activation)
    weight, bias = np.atleast_2d(estimator.coef_).T, np.atleast_1d(estimator.intercept_)
    return Layers((weight,), (bias,), "identity")


def layers_to_onnx(layers: Layers, task: Task, inputs: InputSpec, temperature: float) -> bytes:
    """Write layers behind the columns that they take as an ONNX model with scores as its output.

    Args:
        layers: The model.
        task: The task.
        inputs: Description of the inputs.
        temperature: Divides the logits.
    """
    nodes, constants = _column_nodes(inputs)
    names = ["columns", *(f"layer_{i}" for i in range(1, len(layers.weights))), SUMS]
    for i, (weight, bias) in enumerate(zip(layers.weights, layers.biases, strict=True)):
        name = names[i]
        if i:
            nodes.append(helper.make_node(_ACTIVATIONS[layers.activation][1], [name], [name := f"active_{i}"]))
        constants |= {f"weight_{i}": weight.astype(np.float32), f"bias_{i}": bias.astype(np.float32)}
        nodes.append(helper.make_node("Gemm", [name, f"weight_{i}", f"bias_{i}"], [names[i + 1]]))
    tail, more = score_nodes(task, inputs, temperature, of_probabilities=False)
    return model_bytes("layers", nodes + tail, constants | more, task, inputs)


def _column_nodes(inputs: InputSpec) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Nodes that compute "columns" as trainers.estimators.columns.dense_columns does, and their constants."""
    nodes, constants, parts = list[onnx.NodeProto](), dict[str, np.ndarray](), list[str]()

    def add(kind: str, names: list[str], output: str, **options: Any) -> str:
        nodes.append(helper.make_node(kind, names, [output], **options))
        return output

    if inputs.width:
        constants |= {
            "mean": np.array(inputs.mean, np.float32),
            "std": np.array(inputs.std, np.float32),
            "low": np.array(-CLIP_STD, np.float32),
            "high": np.array(CLIP_STD, np.float32),
            "average": np.array(0, np.float32),
        }
        absent = add("IsNaN", ["numbers"], "absent")
        scaled = add("Div", [add("Sub", ["numbers", "mean"], "centered"), "std"], "scaled")
        clipped = add("Clip", [scaled, "low", "high"], "clipped")
        parts.append(add("Where", [absent, "average", clipped], "present"))
        if inputs.missing:
            constants["with_missing"] = np.array(inputs.missing, np.int64)
            flags = add("Gather", [absent, "with_missing"], "flags", axis=1)
            parts.append(add("Cast", [flags], "indicators", to=TensorProto.FLOAT))
    for i, size in enumerate(inputs.cardinalities):
        constants |= {f"position_{i}": np.array(i), f"size_{i}": np.array(size), "off_on": np.array([0, 1], np.float32)}
        code = add("Gather", ["codes", f"position_{i}"], f"code_{i}", axis=1)
        parts.append(add("OneHot", [code, f"size_{i}", "off_on"], f"codes_{i}", axis=-1))
    add("Concat", parts, "columns", axis=1)
    return nodes, constants


def _block_diagonal(matrices: tuple[np.ndarray, ...]) -> np.ndarray:
    from scipy.linalg import block_diag

    return np.asarray(block_diag(*matrices))
