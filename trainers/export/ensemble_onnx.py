"""One ONNX graph of several: the weighted mean of their scores, from the same inputs."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import compose, helper

from cluster.values import Task
from trainers.evaluation.calibration import LOGIT_FLOOR

_OUTPUT = "scores"


def merge_graphs(graphs: Sequence[onnx.ModelProto], weights: Sequence[float], task: Task, temperature: float) -> bytes:
    """Merge graphs that have the inputs and the output of trainers.fitted_model.GraphModel.

    Args:
        graphs: The members.
        weights: Their weights, which add up to 1.
        task: The task.
        temperature: Divides the logits of the mean (temperature scaling).
    """
    members = [compose.add_prefix(graph, f"member{i}/", rename_inputs=False) for i, graph in enumerate(graphs)]
    inputs = {node.name: node for graph in graphs for node in graph.graph.input}
    nodes, means, constants = list[onnx.NodeProto](), list[str](), list[onnx.TensorProto]()
    for i, (member, weight) in enumerate(zip(members, weights, strict=True)):
        nodes += member.graph.node
        constants += [*member.graph.initializer, _constant(f"weight{i}", weight)]
        nodes.append(helper.make_node("Mul", [member.graph.output[0].name, f"weight{i}"], [f"weighted{i}"]))
        means.append(f"weighted{i}")
    nodes.append(helper.make_node("Sum", means, ["mean" if temperature != 1.0 else _OUTPUT]))
    if temperature != 1.0:
        more, values = _scale(task, temperature)
        nodes, constants = nodes + more, constants + values
    output = helper.make_tensor_value_info(
        _OUTPUT, onnx.TensorProto.FLOAT, ["batch", task.outputs] if task.wide else ["batch"]
    )
    merged = helper.make_model(
        helper.make_graph(nodes, "ensemble", list(inputs.values()), [output], constants),
        opset_imports=_opsets(members),
        ir_version=max(member.ir_version for member in members),
        functions=[function for member in members for function in member.functions],
    )
    onnx.checker.check_model(merged)
    return bytes(merged.SerializeToString())


def _scale(task: Task, temperature: float) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes that divide the logits of "mean" by the temperature, as trainers.evaluation.calibration does."""
    constants = [_constant("floor", LOGIT_FLOOR), _constant("ceiling", 1 - LOGIT_FLOOR)]
    constants += [_constant("temperature", temperature), _constant("one", 1.0)]
    nodes = [
        helper.make_node("Clip", ["mean", "floor", "ceiling"], ["clipped"]),
        helper.make_node("Log", ["clipped"], ["log"]),
    ]
    if task.kind == "multiclass":
        nodes.append(helper.make_node("Div", ["log", "temperature"], ["scaled"]))
        return [*nodes, helper.make_node("Softmax", ["scaled"], [_OUTPUT], axis=1)], constants
    nodes += [
        helper.make_node("Sub", ["one", "clipped"], ["rest"]),
        helper.make_node("Log", ["rest"], ["log_rest"]),
        helper.make_node("Sub", ["log", "log_rest"], ["logit"]),
        helper.make_node("Div", ["logit", "temperature"], ["scaled"]),
        helper.make_node("Sigmoid", ["scaled"], [_OUTPUT]),
    ]
    return nodes, constants


def _constant(name: str, value: float) -> onnx.TensorProto:
    return helper.make_tensor(name, onnx.TensorProto.FLOAT, [], [value])


def _opsets(members: Sequence[onnx.ModelProto]) -> list[onnx.OperatorSetIdProto]:
    versions: dict[str, int] = {}
    for opset in (each for member in members for each in member.opset_import):
        versions[opset.domain] = max(opset.version, versions.get(opset.domain, 0))
    return [helper.make_opsetid(domain, version) for domain, version in versions.items()]
