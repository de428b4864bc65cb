"""The reference graphs that ship with the onnx package, compared with our exports node by node.

A graph is reduced to its layers. `reference_graph` rewrites what the references spell otherwise, and nothing else: see
the docstrings of the tests that use it for what that is in each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from onnx import helper, numpy_helper

DEFAULTS: dict[str, dict[str, Any]] = {
    "Conv": {"group": 1, "pads": [0, 0, 0, 0], "strides": [1, 1], "dilations": [1, 1]},
    "MaxPool": {"pads": [0, 0, 0, 0], "strides": [1, 1], "ceil_mode": 0},
    "AveragePool": {"pads": [0, 0, 0, 0], "strides": [1, 1], "ceil_mode": 0, "count_include_pad": 0},
    "LRN": {"alpha": 1e-4, "beta": 0.75, "bias": 1.0},
    "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0},
    "BatchNormalization": {"epsilon": 1e-5},
    "Concat": {"axis": 1},
}
"""What ONNX says about attributes that are left out."""

LEFT_OUT = ("Dropout", "Softmax", "Reshape", "Flatten")
"""Operators that only pass their first input on, as far as the logits' order is concerned."""


@dataclass(frozen=True)
class Node:
    """An operator with its numbers, the shapes of its constant inputs, and the values that it reads."""

    operator: str
    numbers: dict[str, Any]
    constants: tuple[tuple[int, ...], ...]
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """The layers that the output depends on, by the value that each makes."""

    nodes: Mapping[str, Node]
    output: str


def our_graph(path: Path) -> Graph:
    """An export of this project."""
    return _graph(onnx.load(path))


def reference_graph(name: str) -> Graph:
    """A graph of the onnx package, such as `light_resnet50`, in this project's vocabulary."""
    path = Path(onnx.__path__[0]) / "backend" / "test" / "data" / "light" / f"{name}.onnx"
    graph = _graph(onnx.load(path))
    nodes = dict(graph.nodes)
    passed_on = {}
    for value, node in graph.nodes.items():
        node = nodes[value] = replace(node, inputs=tuple(passed_on.get(name, name) for name in node.inputs))
        before = nodes.get(node.inputs[0])
        if node.operator in ("Mul", "Add") and len(node.inputs) == 1:
            assert before is not None, f"{value} scales the image"
            assert before.operator == "BatchNormalization", f"{value} scales a {before.operator}"
            passed_on[value] = node.inputs[0]
        elif node.operator == "Sum":
            nodes[value] = replace(node, operator="Add")
        elif node.operator == "AveragePool" and node.numbers["kernel_shape"] == [7, 7]:
            nodes[value] = replace(node, operator="GlobalAveragePool", numbers={})
        elif node.operator == "Conv" and before and before.operator == "GlobalAveragePool":
            weight, bias = node.constants
            numbers = {**DEFAULTS["Gemm"], "transB": 1}
            nodes[value] = replace(node, operator="Gemm", numbers=numbers, constants=(weight[:2], bias))
    kept = {value: node for value, node in nodes.items() if value not in passed_on}
    return Graph(kept, passed_on.get(graph.output, graph.output))


def _graph(model: onnx.ModelProto) -> Graph:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    contents = {
        tensor.name: tuple(map(int, numpy_helper.to_array(tensor)))
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT64 and len(tensor.dims) == 1
    }
    passed_on: dict[str, str] = {}
    nodes: dict[str, Node] = {}
    for node in model.graph.node:
        value, inputs = node.output[0], [passed_on.get(name, name) for name in node.input]
        if node.op_type in ("ConstantOfShape", "ConstantFill"):
            shapes[value] = contents[inputs[0]]
        elif node.op_type == "Unsqueeze" and inputs[0] in shapes:
            shapes[value] = (*shapes[inputs[0]], 1, 1)
        elif node.op_type == "Reshape" and inputs[0] in shapes:
            shapes[value] = shapes[inputs[0]][-2:]  # a dense kernel, to which Caffe gave four axes
        elif node.op_type in LEFT_OUT:
            passed_on[value] = inputs[0]
        else:
            numbers = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            nodes[value] = Node(
                node.op_type,
                {**DEFAULTS.get(node.op_type, {}), **numbers},
                tuple(shapes[name] for name in inputs if name in shapes),
                tuple(name for name in inputs if name not in shapes),
            )
    output = model.graph.output[0].name
    return Graph(nodes, passed_on.get(output, output))


def assert_same_graph(ours: Graph, reference: Graph) -> None:
    """Walk both graphs from their outputs at once: the same operators, numbers, parameter shapes and inputs."""
    partners: dict[str, str] = {}
    waiting = [(ours.output, reference.output)]
    while waiting:
        mine, theirs = waiting.pop()
        if mine in partners:
            assert partners[mine] == theirs, f"{mine} takes the place of both {partners[mine]} and {theirs}"
            continue
        partners[mine] = theirs
        assert (mine in ours.nodes) == (theirs in reference.nodes), f"{mine} is {theirs} in the reference"
        if mine in ours.nodes:
            node, other = ours.nodes[mine], reference.nodes[theirs]
            found, expected = _essentials(node), _essentials(other)
            assert found == expected, f"{mine} is {found}; in the reference, {theirs} is {expected}"
            waiting += zip(node.inputs, other.inputs, strict=True)
    assert len(set(partners.values())) == len(partners)
    assert partners.keys() - ours.nodes.keys() == {"image"}
    assert len(partners) == len(ours.nodes) + 1 == len(reference.nodes) + 1


def _essentials(node: Node) -> dict[str, Any]:
    """Floats to six digits: ONNX stores float32, and writers round eps and alpha on the way."""
    numbers = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in node.numbers.items()}
    return {"operator": node.operator, **numbers, "constants": node.constants, "inputs": len(node.inputs)}
