"""The ONNX graph of a forest: ONNX-ML's TreeEnsembleRegressor behind the inputs that every model of rayloop has.

A split on categories tests whether the row's code is in a set. For each distinct set, a table of zeros and ones by code
is part of the graph, and the row's entry becomes a column that the tree compares with 0.5: one lookup for all sets of a
category, where ONNX-ML before opset 5 needs a chain of comparisons for each
(https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleRegressor.html).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cluster.values import Task
from trainers.input_spec import InputSpec
from trainers.trees.forest import PROBABILITY_FLOOR, Forest, Tree

_IR_VERSION = 10
ML_DOMAIN = "ai.onnx.ml"
_OPSETS = {"": 18, ML_DOMAIN: 3}
SUMS = "sums"
"""Name of the tensor [n, outputs] that ``score_nodes`` turns into scores."""
_BATCH = "batch"
_MEMBER, _OTHER, _MEMBER_BELOW = 0.0, 1.0, 0.5
"""Entries of a set's table, and the threshold between them: members go left, where values are at most the threshold."""


_Step = tuple[str, dict[str, np.ndarray], dict[str, Any]]
"""Operator, constants behind its first input, attributes."""


class _Columns(NamedTuple):
    """Where the columns that the trees test are: numbers, then the codes that are compared as numbers, then sets."""

    numbers: int
    codes: dict[int, int]
    """By position of a category, its column."""
    sets: dict[tuple[int, frozenset[int]], int]
    """By position of a category and codes, the column."""


def forest_to_onnx(forest: Forest, task: Task, inputs: InputSpec, temperature: float) -> bytes:
    """Write a forest as an ONNX model with scores as its output.

    Args:
        forest: Trees that add up to logits or probabilities; of a regression to the standardized label.
        task: The task.
        inputs: Description of the inputs.
        temperature: Divides the logits.
    """
    columns = _place_columns(forest, inputs)
    nodes, tables = _column_nodes(columns, inputs)
    nodes.append(_ensemble(forest, columns, inputs))
    more, constants = score_nodes(task, inputs, temperature, of_probabilities=forest.of_probabilities)
    return model_bytes("forest", nodes + more, tables | constants, task, inputs)


def model_bytes(
    name: str, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], task: Task, inputs: InputSpec
) -> bytes:
    """Put nodes from "numbers" and "codes" to "scores", and their constants, into an ONNX model.

    Args:
        name: Name of the graph.
        nodes: The nodes.
        constants: Constants, by name.
        task: The task.
        inputs: Description of the inputs.
    """
    kinds = (("numbers", TensorProto.FLOAT, inputs.width), ("codes", TensorProto.INT64, len(inputs.cardinalities)))
    shape: list[str | int] = [_BATCH, task.outputs] if task.wide else [_BATCH]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(each, kind, [_BATCH, width]) for each, kind, width in kinds if width],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(values, each) for each, values in constants.items()],
    )
    domains = {node.domain for node in nodes}
    opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS.items() if domain in domains]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _place_columns(forest: Forest, inputs: InputSpec) -> _Columns:
    """A column for each code that a split compares as a number, and for each distinct set of codes."""
    codes: set[int] = set()
    sets: set[tuple[int, frozenset[int]]] = set()
    for tree in forest.trees:
        for split, feature in enumerate(tree.features.tolist()):
            if split in tree.categories:
                sets.add((feature - inputs.width, tree.categories[split]))
            elif feature >= inputs.width:
                codes.add(feature - inputs.width)
    if not inputs.width and not codes and not sets:
        # A graph needs a column, although no tree has a split.
        codes = {0}
    ordered = sorted(sets, key=lambda each: (each[0], sorted(each[1])))
    first = inputs.width + len(codes)
    return _Columns(
        inputs.width,
        {code: inputs.width + i for i, code in enumerate(sorted(codes))},
        {each: first + i for i, each in enumerate(ordered)},
    )


def _column_nodes(columns: _Columns, inputs: InputSpec) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Nodes that join all columns as "columns", and their constants."""
    nodes, constants = list[onnx.NodeProto](), dict[str, np.ndarray]()
    parts = ["numbers"] if columns.numbers else []

    def pick(position: int) -> str:
        """The codes of one category, [n]."""
        constants[f"position_{position}"] = np.array(position, np.int64)
        name = f"code_{position}"
        if all(name not in node.output for node in nodes):
            nodes.append(helper.make_node("Gather", ["codes", f"position_{position}"], [name], axis=1))
        return name

    for position in columns.codes:
        name = f"number_{position}"
        constants["column"] = np.array([1], np.int64)
        nodes.append(helper.make_node("Cast", [pick(position)], [f"{name}_flat"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Unsqueeze", [f"{name}_flat", "column"], [name]))
        parts.append(name)
    for position in sorted({position for position, _ in columns.sets}):
        name = f"sets_{position}"
        constants[f"table_{position}"] = _table(columns, position, inputs.cardinalities[position])
        nodes.append(helper.make_node("Gather", [f"table_{position}", pick(position)], [name], axis=0))
        parts.append(name)
    nodes.append(helper.make_node("Concat", parts, ["columns"], axis=1))
    return nodes, constants


def _table(columns: _Columns, position: int, cardinality: int) -> np.ndarray:
    """One row per code, one column per set of the category."""
    members = [codes for at, codes in columns.sets if at == position]
    table = np.full((cardinality, len(members)), _OTHER, np.float32)
    for i, codes in enumerate(members):
        table[[code for code in codes if code < cardinality], i] = _MEMBER
    return table


def _ensemble(forest: Forest, columns: _Columns, inputs: InputSpec) -> onnx.NodeProto:
    parts = [_tree_attributes(i, tree, columns, inputs) for i, tree in enumerate(forest.trees)]
    attributes = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    modes = [("LEAF", "BRANCH_LEQ")[mode] for mode in attributes.pop("nodes_modes", np.empty(0, int)).tolist()]
    return helper.make_node(
        "TreeEnsembleRegressor",
        ["columns"],
        [SUMS],
        domain=ML_DOMAIN,
        n_targets=len(forest.base),
        aggregate_function="SUM",
        post_transform="NONE",
        base_values=list(forest.base),
        nodes_modes=modes,
        **{name: values.tolist() for name, values in attributes.items()},
    )


def _tree_attributes(number: int, tree: Tree, columns: _Columns, inputs: InputSpec) -> dict[str, np.ndarray]:
    """Attributes of one tree: its splits, numbered from 0 on, then its leaves. Of "modes", 1 is a split."""
    splits, leaves = len(tree.features), len(tree.leaves)
    count, width = splits + leaves, tree.leaves.reshape(leaves, -1).shape[1]
    feature, threshold = _tests(tree, columns, inputs)
    children = [np.where(child >= 0, child, splits - 1 - child) for child in (tree.left, tree.right)]

    def filled(values: Any, kind: type) -> np.ndarray:
        return np.concatenate([np.asarray(values, kind), np.zeros(leaves, kind)])

    return {
        "nodes_treeids": np.full(count, number),
        "nodes_nodeids": np.arange(count),
        "nodes_featureids": filled(feature, np.int64),
        "nodes_values": filled(threshold, np.float32),
        "nodes_modes": filled(np.ones(splits), np.int64),
        "nodes_truenodeids": filled(children[0], np.int64),
        "nodes_falsenodeids": filled(children[1], np.int64),
        "nodes_missing_value_tracks_true": filled(tree.missing_left, np.int64),
        "target_treeids": np.full(leaves * width, number),
        "target_nodeids": np.repeat(splits + np.arange(leaves), width),
        "target_ids": np.tile(tree.target + np.arange(width), leaves),
        "target_weights": np.asarray(tree.leaves, np.float32).ravel(),
    }


def _tests(tree: Tree, columns: _Columns, inputs: InputSpec) -> tuple[np.ndarray, np.ndarray]:
    """The column of each split, and its threshold."""
    features, thresholds = tree.features.copy(), tree.thresholds.copy()
    for split in np.flatnonzero(features >= inputs.width).tolist():
        position = int(features[split]) - inputs.width
        if split in tree.categories:
            features[split], thresholds[split] = columns.sets[position, tree.categories[split]], _MEMBER_BELOW
        else:
            features[split] = columns.codes[position]
    return features, thresholds


def score_nodes(
    task: Task, inputs: InputSpec, temperature: float, *, of_probabilities: bool
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Nodes from ``SUMS`` to "scores", and their constants.

    Args:
        task: The task.
        inputs: Description of the inputs.
        temperature: Divides the logits.
        of_probabilities: Whether the sums are probabilities, and not logits. With a temperature or a shift each one of
            a task without exclusive classes is followed by that of the opposite, whose logarithm float32 holds near 1,
            too. A shift of logits is part of the sums.
    """
    steps: list[_Step] = []
    of_logits = task.kind != "regression" and not of_probabilities
    if task.kind != "regression" and of_probabilities:
        of_logits = temperature != 1.0 or bool(inputs.logit_shift)
        steps += _logit_steps(task, inputs) if of_logits else [("Identity", {}, {})]
    if temperature != 1.0:
        steps.append(("Div", {"temperature": np.array(temperature, np.float32)}, {}))
    if of_logits:
        steps.append(("Softmax", {}, {"axis": 1}) if task.kind == "multiclass" else ("Sigmoid", {}, {}))
    if not task.wide:
        steps.append(("Squeeze", {"axes": np.array([1], np.int64)}, {}))
    if task.kind == "regression":
        steps.append(("Mul", {"label_std": np.array(inputs.label_std, np.float32)}, {}))
        steps.append(("Add", {"label_mean": np.array(inputs.label_mean, np.float32)}, {}))
    names = [SUMS, *(f"step_{i}" for i in range(1, len(steps))), "scores"]
    nodes = [
        helper.make_node(kind, [names[i], *constants], [names[i + 1]], **options)
        for i, (kind, constants, options) in enumerate(steps)
    ]
    return nodes, _merge(constants for _, constants, _ in steps)


def _logit_steps(task: Task, inputs: InputSpec) -> list[_Step]:
    """From probabilities to their logarithms; of one class for each output, less those of the other; without shift."""
    steps: list[_Step] = [("Max", {"floor": np.array(PROBABILITY_FLOOR, np.float32)}, {}), ("Log", {}, {})]
    if task.kind != "multiclass":
        steps.append(("MatMul", {"signs": np.kron(np.eye(task.outputs), [[1], [-1]]).astype(np.float32)}, {}))
    if inputs.logit_shift:
        steps.append(("Sub", {"shift": np.array(inputs.logit_shift, np.float32)}, {}))
    return steps


def _merge(parts: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: values for part in parts for name, values in part.items()}
