"""Networks reduced to their skeletons: the nodes that have parameters, and those that join branches.

A file's graph is reduced in the same way (`common.porting.onnx_graphs`). If two skeletons are the same, walking both
from the output shows which weights belong to which layer. The operators between the nodes (strides, pools, activations)
distinguish networks with the same skeleton. A difference from all of them is reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

import numpy as np

from common.errors import TriptychError
from common.operations import LRN, Add, BatchNorm, Concat, Conv, Dense, ScaledTanh, SubSampling, Windowed, same_padding
from common.specs.architecture import IMAGE, Architecture, Layer

Between = list[tuple[Any, ...]]
"""The operators between two nodes of a skeleton, with their numbers."""

SAME = "SAME_UPPER"
"""ONNX's name of TensorFlow's SAME."""

MOST_JOINED = 1_000
"""The most values that may be joined. The largest DenseNet joins 98."""

SUM = ("Mul", "4")
"""Four times the mean of a 2×2 window: this is how ONNX writes its sum."""


@dataclass(eq=False)
class Node:
    """A node of a skeleton: of a file or of a specification."""

    kind: str
    name: str
    inputs: tuple[Node, ...] = ()
    parameters: dict[str, tuple[str, np.ndarray]] = field(default_factory=dict)
    """In a file: for each kind of parameter, the initializer's name and the array."""
    shape: tuple[int, ...] = ()
    """The shape of the weights."""
    numbers: tuple[Any, ...] = ()
    """Stride and padding (top, left, bottom, right)."""
    between: tuple[Between, ...] = ()
    """The operators between each input and this node."""
    value: str = ""
    """In a file: the value that it reads."""
    same: tuple[int, ...] = ()
    """In a specification: TensorFlow's SAME in pixels, on the map that the node reads."""
    norm: str = ""
    """In a specification: the batch normalisation that is folded into this convolution."""
    signature: int = 0
    """The same for nodes with the same skeleton before them."""


def join(kind: str, name: str, inputs: list[Node], between: list[Between]) -> Node:
    """A sum or a concatenation. Nested ones become one, if no operator is between them."""
    flat: list[tuple[Node, Between]] = []
    for node, passed in zip(inputs, between, strict=True):
        if kind == node.kind == "Concat" and not passed:
            flat += zip(node.inputs, node.between, strict=True)
        else:
            flat.append((node, passed))
    if len(flat) > MOST_JOINED:
        raise TriptychError(f"its graph joins {len(flat):,} values")
    return Node(kind, name, tuple(node for node, _ in flat), between=tuple(passed for _, passed in flat))


def sign(node: Node) -> Node:
    """Give a node its signature. Its inputs must have theirs."""
    before = [each.signature for each in node.inputs]
    node.signature = hash((node.kind, node.shape, tuple(sorted(before) if node.kind == "Add" else before)))
    return node


def image_node() -> Node:
    """The node at which a skeleton begins."""
    return Node("image", IMAGE, signature=hash("image"))


def skeleton(spec: Architecture, head: str, *, folded: bool = False) -> Node:
    """The skeleton of a network of the catalogue, up to a layer.

    Args:
        spec: the network.
        head: the layer.
        folded: leave out the batch normalisations directly after a convolution, which exporters fold into it.
    """
    made: dict[str, Node] = {IMAGE: image_node()}
    passed: dict[str, list[tuple[Any, ...]]] = {IMAGE: []}
    for layer in spec.layers:
        kind, before = layer.operation.kind, layer.inputs[0]
        if isinstance(layer.operation, Conv | Dense | BatchNorm | SubSampling):
            if folded and kind == "BatchNorm" and made[before].name == before and made[before].kind == "Conv":
                made[before].norm = layer.name
                made[layer.name], passed[layer.name] = made[before], []
                continue
            shapes = layer.operation.parameter_shapes(*spec.input_shapes(layer))
            shape = next(iter(shapes.values()))
            windowed = isinstance(layer.operation, Conv)
            numbers, same = (_numbers(spec, layer), _same(spec, layer)) if windowed else ((), ())
            node = Node(kind, layer.name, (made[before],), {}, shape, numbers, (passed[before],), same=same)
        elif isinstance(layer.operation, Add | Concat):
            node = join(
                kind, layer.name, [made[name] for name in layer.inputs], [passed[name] for name in layer.inputs]
            )
        else:
            made[layer.name] = made[before]
            passed[layer.name] = [*passed[before], *_specified_between(spec, layer)]
            continue
        made[layer.name], passed[layer.name] = sign(node), []
    return made[head]


def lrn_entry(size: int, *numbers: float) -> tuple[Any, ...]:
    """Alpha, beta and k to four digits: a file keeps them in float32."""
    return ("LRN", size, *(f"{number:.4g}" for number in numbers))


def _numbers(spec: Architecture, layer: Layer) -> tuple[Any, ...]:
    assert isinstance(layer.operation, Windowed)
    _, stride, ((top, bottom), (left, right)) = layer.operation.window(spec.input_shapes(layer)[0])
    return stride, (top, left, bottom, right)


def _same(spec: Architecture, layer: Layer) -> tuple[int, ...]:
    """(top, left, bottom, right) of TensorFlow's SAME."""
    assert isinstance(layer.operation, Windowed)
    kernel, stride, _ = layer.operation.window(spec.input_shapes(layer)[0])
    (top, bottom), (left, right) = same_padding(spec.input_shapes(layer)[0][1:], kernel, stride)
    return top, left, bottom, right


def _specified_between(spec: Architecture, layer: Layer) -> list[tuple[Any, ...]]:
    operation = layer.operation
    if operation.kind == "MaxPool":
        assert isinstance(operation, Windowed)
        kernel, _, _ = operation.window(spec.input_shapes(layer)[0])
        return [("MaxPool", kernel, *_numbers(spec, layer), _same(spec, layer))]
    if isinstance(operation, LRN):
        return [lrn_entry(operation.size, operation.alpha, operation.beta, operation.k)]
    if isinstance(operation, ScaledTanh):
        return [("Mul", f"{operation.slope:.4g}"), ("Tanh",), ("Mul", f"{operation.amplitude:.4g}")]
    return {"ReLU": [("Relu",)], "Sigmoid": [("Sigmoid",)]}.get(operation.kind, [])


def pairs(ours: Node, theirs: Node) -> list[tuple[Node, Node]]:
    """The pairs of nodes of two equal skeletons. The inputs of the second are put into the order of the first."""
    found: dict[str, tuple[Node, Node]] = {}
    waiting = [(ours, theirs)]
    while waiting:
        mine, other = waiting.pop()
        if mine.name in found or mine.kind == "image":
            continue
        if mine.kind == "Add":
            other = _in_the_order_of(mine, other)
        found[mine.name] = mine, other
        waiting += zip(mine.inputs, other.inputs, strict=True)
    return list(found.values())


def _in_the_order_of(mine: Node, other: Node) -> Node:
    wanted = [node.signature for node in mine.inputs]
    orders = permutations(zip(other.inputs, other.between, strict=True))
    fitting = [order for order in orders if [node.signature for node, _ in order] == wanted]
    # Where branches have the same skeleton, what lies between tells them apart.
    order = min(fitting, key=lambda order: sum(_differ(e, f) for (_, f), e in zip(order, mine.between, strict=True)))
    return replace(other, inputs=tuple(node for node, _ in order), between=tuple(passed for _, passed in order))


def differences(ours: Node, theirs: Node) -> Iterator[tuple[bool, str]]:
    """The differences of two networks with the same skeleton, in operators without parameters.

    Yields whether only the padding differs, and a phrase.
    """
    for mine, other in pairs(ours, theirs):
        for expected, between in zip(mine.between, other.between, strict=True):
            found, rest = _padded(between)
            expected, found = _resolved(expected, found)
            if mine.kind == "SubSampling":
                found = [entry for entry in found if entry != SUM]
            numbers = other.numbers
            if len(numbers) > 1:
                numbers = (numbers[0], _sum(mine.same if numbers[1] == SAME else numbers[1], rest))
            if mine.numbers and mine.numbers != numbers:
                only_padding = mine.numbers[0] == numbers[0]
                yield only_padding, f"{mine.name} has stride and padding {numbers}, here {mine.numbers}"
            told = f"before {mine.name} it has {_told(found)}, here {_told(expected)}"
            if len(found) != len(expected) or any(f[:3] != e[:3] for f, e in zip(found, expected, strict=True)):
                yield False, told
            elif any(f != e and f[3:] != ("ceil",) for f, e in zip(found, expected, strict=True)):
                yield True, told


def _padded(between: Between) -> tuple[Between, Any]:
    """The operators between, with each padding added to the window after it; and the padding that is left at the
    end."""
    found: Between = []
    rest: Any = (0, 0, 0, 0)
    for entry in between:
        if entry[0] == "Pad":
            rest = _sum(entry[1], rest)
        elif entry[0] == "MaxPool":
            found.append((*entry[:3], _sum(entry[3], rest)))
            rest = (0, 0, 0, 0)
        else:
            found.append(entry)
    return found, rest


def _differ(expected: Between, between: Between) -> bool:
    expected, found = _resolved(expected, _padded(between)[0])
    return expected != found


def _resolved(expected: Between, found: Between) -> tuple[Between, Between]:
    """Both, with the padding of pools in pixels, if the file has a rule instead."""
    plain = [entry[:4] if entry[0] == "MaxPool" else entry for entry in expected]
    if len(found) == len(expected):
        pairs = zip(found, expected, strict=True)
        found = [(*f[:3], e[4]) if f[0] == e[0] == "MaxPool" and f[3] == SAME else f for f, e in pairs]
    return plain, found


def _sum(padding: Any, more: Any) -> Any:
    if more == (0, 0, 0, 0):
        return padding
    if not all(isinstance(amounts, tuple) and len(amounts) == 4 for amounts in (padding, more)):
        return f"{padding} and {more}"  # which is what no network here has
    return tuple(a + b for a, b in zip(padding, more, strict=True))


def _told(entries: Between) -> str:
    return ", ".join(f"{entry[0]}{entry[1:] or ''}" for entry in entries) or "nothing"


def inventory(outputs: list[Node]) -> str:
    """How many nodes of each kind there are."""
    seen: dict[int, Node] = {}
    waiting = list(outputs)
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen[id(node)] = node
            waiting += node.inputs
    kinds = [node.kind for node in seen.values() if node.kind != "image"]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    return f"it has {counts or 'no layers with weights'}"
