"""What an exact probe can see: each weight tensor and each attribute is changed a little.

Each node is judged on its own inputs, so a change shows in its own node or nowhere. Only this node is computed again,
by the oracle. Its result stands for what a runtime with that mistake would have recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.errors import TriptychError
from common.graphs import Node
from common.graphs.onnx_reader import nodes_of
from common.operations.rounding import Reference
from common.prove.exact import GraphProbe

if TYPE_CHECKING:
    import onnx

STEP = 2.0**-10
"""The relative change of a number."""


@dataclass(frozen=True)
class Sensitivity:
    """How much of a model an exact probe sees."""

    seen: int
    of: int
    """The number of weight tensors and attributes of all judged nodes."""
    unseen: tuple[str, ...]
    """The changes that are not seen: `node: attribute` or `node: tensor`."""


def sensitivity_of(probe: GraphProbe) -> Sensitivity:
    """Change one number of each weight tensor, and each attribute, and find out whether the probe sees it.

    A real attribute is changed by one part in 2^10, a whole one by 1; a list is reversed. A change after which the node
    can no longer run counts as seen.
    """
    known = {**probe.graph.constants, **probe.expected.given}
    shapes = {name: array.shape for name, array in known.items()}
    nodes = {node.output: node for node in probe.graph.nodes}
    seen, unseen = 0, []
    for proto in probe.model.graph.node:
        for output in proto.output:
            node = nodes.get(output)
            right = _reference(node, known)
            if node is None or right is None:
                continue
            exact = output in probe.expected.values
            tensors = ((name, _reference(node, {**known, name: array})) for name, array in _other_tensors(node, probe))
            attributes = (
                (name, _reference(_read_again(other, output, shapes, probe), known))
                for name, other in _other_attributes(proto)
            )
            for changes in (tensors, attributes):
                for name, wrong in changes:
                    if _is_seen(right, wrong, exact):
                        seen += 1
                    else:
                        unseen.append(f"{node.name}: {name}")
    return Sensitivity(seen, seen + len(unseen), tuple(unseen))


def _is_seen(right: Reference, wrong: Reference | None, exact: bool) -> bool:
    """Whether the value that a runtime would record with a mistake is not the required one."""
    if wrong is None or wrong.value.shape != right.value.shape:
        return True
    if right.bound is None or not np.issubdtype(right.value.dtype, np.floating):
        return not np.array_equal(wrong.value, right.value)
    recorded = wrong.value.astype(np.float32)
    if exact:
        return not np.array_equal(recorded, right.value.astype(np.float32))
    return bool((~(np.abs(recorded - right.value) <= right.bound)).any())


def _reference(node: Node | None, known: Mapping[str, np.ndarray]) -> Reference | None:
    """The value of a node; None if it is not known."""
    if node is None or node.operation is None or not all(name in known for name in node.reads):
        return None
    try:
        parameters = {kind: known[name] for kind, name in node.parameters.items()}
        return node.operation.reference([known[name] for name in node.inputs], parameters)
    except Exception:  # of a change that does not fit, in ONNX's evaluator too
        return None


def _read_again(
    proto: onnx.NodeProto, output: str, shapes: Mapping[str, tuple[int, ...]], probe: GraphProbe
) -> Node | None:
    """A node with another attribute, read by the graph's reader."""
    try:
        read = nodes_of(proto, probe.graph.constants, shapes, probe.graph.opset)
    except (TriptychError, ValueError, IndexError, ZeroDivisionError):
        return None
    return next((node for node in read if node.output == output), None)


def _other_tensors(node: Node, probe: GraphProbe) -> Iterator[tuple[str, np.ndarray]]:
    """Each weight tensor of a node, with its largest number a little larger."""
    for name in dict.fromkeys(node.reads):
        array = probe.graph.constants.get(name)
        if array is not None and array.dtype == np.float32 and array.size and np.any(array):
            changed = array.copy()
            place = np.unravel_index(np.abs(array).argmax(), array.shape)
            changed[place] *= np.float32(1 + STEP)
            yield name, changed


def _other_attributes(proto: onnx.NodeProto) -> Iterator[tuple[str, onnx.NodeProto]]:
    """A node with one attribute changed, for each attribute that is a number."""
    from onnx import NodeProto, helper

    for place, attribute in enumerate(proto.attribute):
        value = helper.get_attribute_value(attribute)
        changed = _other_value(value)
        if changed is not None:
            other = NodeProto()
            other.CopyFrom(proto)
            other.attribute[place].CopyFrom(helper.make_attribute(attribute.name, changed))
            yield attribute.name, other


def _other_value(value: object) -> float | int | Sequence[int] | None:
    """Another value of an attribute; None if it is no number, nor a list of whole ones."""
    if isinstance(value, float):
        return value * (1 + STEP) if value else STEP
    if isinstance(value, int):
        return 1 - value if value in (0, 1) else value + 1
    if isinstance(value, list | tuple) and value and all(isinstance(number, int) for number in value):
        turned = list(value)[::-1]
        return turned if turned != list(value) else [value[0] + 1, *value[1:]]
    return None
