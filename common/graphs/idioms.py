"""Operations that one framework writes as one node and another as several.

For example a bias that is added afterwards, a batch normalisation as a difference, a product and a sum, or a hard swish
in four nodes. Each is recognised and becomes one node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from common.graphs.graph import Node
from common.graphs.region import Constants, Region, applied, close, made
from common.graphs.written_out import gelu, layer_norm
from common.operations import BatchNorm, Conv, Dense
from common.operations.conv_nd import ConvND
from common.operations.rectifiers import Clip, HardSigmoid, HardSwish
from common.operations.smooth import Swish


def recognised(nodes: Sequence[Node], constants: Constants, outputs: Sequence[str]) -> list[Node]:
    """The nodes, after several nodes that are one operation have become one node.

    Args:
        nodes: of a graph in canonical layout, in an order in which they can be computed.
        constants: of the graph, to which new ones are added.
        outputs: the values that must stay.
    """
    kept = list(nodes)
    for rule in (layer_norm, gelu, _bias, _normalisation, _hard_sigmoid, _gated, _scaled_gate):
        kept = applied(rule, kept, constants, set(outputs))
    return kept


def _per_channel(array: np.ndarray, channels: int, rank: int) -> np.ndarray | None:
    """A constant that has one number for each channel, the second axis, as such; None if it is none."""
    shape = (1,) * (rank - array.ndim) + array.shape
    right = len(shape) == rank and rank > 1 and array.size == channels and shape[1] == channels
    return array.reshape(channels) if right else None


def _bias(node: Node, region: Region) -> tuple[Node, Sequence[Node]] | None:
    """A sum with a constant after a product."""
    found = region.split(node) if node.kind == "Add" else None
    before = region.before(found[0], "Conv", "Gemm", "MatMul") if found else None
    if found is None or before is None or not isinstance(before.operation, Conv | ConvND | Dense):
        return None
    weight = region.constants.get(before.parameters.get("weight", ""))
    old = before.parameters.get("bias")
    if weight is None or (old is not None and (old not in region.constants or region.constants[old].any())):
        return None
    bias = _per_channel(found[1], len(weight), max(weight.ndim, 2))
    if bias is None:
        return None
    name = f"{node.output}/bias"
    region.constants[name] = bias
    operation = replace(before.operation, bias=True) if isinstance(before.operation, Conv) else before.operation
    parameters = {"weight": before.parameters["weight"], "bias": name}
    return replace(before, operation=operation, output=node.output, parameters=parameters), (before,)


def _normalisation(node: Node, region: Region) -> tuple[Node, Sequence[Node]] | None:
    """(x − mean) · scale + shift for each channel: with a variance of 1 and no eps."""
    last = region.split(node) if node.kind == "Add" else None
    product = region.before(last[0], "Mul") if last else None
    middle = region.split(product) if product else None
    if last is None or product is None or middle is None:
        return None
    first = region.before(middle[0], "Sub")
    found = region.split(first) if first else None
    channels = max(last[1].size, middle[1].size)
    rank = max(last[1].ndim, middle[1].ndim)
    if channels < 2:
        return None
    shift, scale = (_per_channel(array, channels, rank) for array in (last[1], middle[1]))
    mean = _per_channel(found[1], channels, rank) if found else np.zeros(channels, np.float32)
    if shift is None or scale is None:
        return None
    if mean is None or found is None or first is None:
        first, mean, value = None, np.zeros(channels, np.float32), middle[0]
    else:
        value = found[0]
    arrays = {"gamma": scale, "beta": shift, "mean": mean, "variance": np.ones(channels, np.float32)}
    parameters = {kind: f"{node.output}/{kind}" for kind in arrays}
    region.constants.update({parameters[kind]: array for kind, array in arrays.items()})
    made = Node(node.name, "BatchNormalization", BatchNorm(0.0), (value,), node.output, parameters, node.source)
    return made, (product,) if first is None else (product, first)


def _sixth(node: Node, region: Region) -> str | None:
    """What a node divides by 6."""
    found = region.number(node) if node.kind in ("Mul", "Div") else None
    return found[0] if found and close(found[1], 6.0 if node.kind == "Div" else 1 / 6) else None


def _clipped(name: str, region: Region) -> tuple[str, Sequence[Node]] | None:
    """The x of a Clip(x + 3, 0, 6)."""
    clip = region.before(name, "Clip")
    if clip is None or clip.operation != Clip(0.0, 6.0):
        return None
    shifted = region.before(clip.inputs[0], "Add")
    found = region.number(shifted) if shifted else None
    return (found[0], (clip, shifted)) if found and shifted and found[1] == 3 else None


def _hard_sigmoid(node: Node, region: Region) -> tuple[Node, Sequence[Node]] | None:
    name = _sixth(node, region)
    found = _clipped(name, region) if name else None
    return (made(node, "HardSigmoid", HardSigmoid(1 / 6, 0.5), found[0]), found[1]) if found else None


def _gated(node: Node, region: Region) -> tuple[Node, Sequence[Node]] | None:
    """x · sigmoid(x), with the soft sigmoid or the hard one."""
    if node.kind != "Mul" or len(node.inputs) != 2:
        return None
    for value, name in (node.inputs, node.inputs[::-1]):
        gate = region.before(name, "Sigmoid", "HardSigmoid")
        if gate is None or gate.inputs != (value,):
            continue
        if gate.kind == "Sigmoid":
            return made(node, "Swish", Swish(), value), (gate,)
        hard = gate.operation
        if isinstance(hard, HardSigmoid) and close(hard.alpha, 1 / 6) and hard.beta == 0.5:
            return made(node, "HardSwish", HardSwish(), value), (gate,)
    return None


def _scaled_gate(node: Node, region: Region) -> tuple[Node, Sequence[Node]] | None:
    """x · Clip(x + 3, 0, 6) / 6."""
    name = _sixth(node, region)
    product = region.before(name, "Mul") if name else None
    for value, clip in _both_ways(product):
        found = _clipped(clip, region)
        if product is not None and found and found[0] == value:
            return made(node, "HardSwish", HardSwish(), value), (product, *found[1])
    return None


def _both_ways(node: Node | None) -> Iterator[tuple[str, str]]:
    if node is not None and len(node.inputs) == 2:
        first, second = node.inputs
        yield from ((first, second), (second, first))
