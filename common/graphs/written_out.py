"""Operations that an exporter has written as elementary ones: a GELU in five to nine nodes, a layer norm in nine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import pi, prod, sqrt

import numpy as np

from common.graphs.graph import Node
from common.graphs.region import Region, close, made
from common.operations.moments import LayerNorm
from common.operations.reductions import Mean
from common.operations.smooth import GELU

Found = tuple[Node, Sequence[Node]]


def gelu(node: Node, region: Region) -> Found | None:
    """x/2 · (1 + erf(x/√2)), or x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))), its factors in whatever order."""
    if node.kind not in ("Mul", "Div"):
        return None
    factors, number, taken = _factors(node, region)
    for value, total in (factors, factors[::-1]) if len(factors) == 2 else ():
        plus_one = region.maker(total, "Add")
        found = region.number(plus_one) if plus_one else None
        inner = region.maker(found[0], "Erf", "Tanh") if found and found[1] == 1 else None
        if plus_one is None or inner is None or not close(number, 0.5):
            continue
        match = _argument_of_erf if inner.kind == "Erf" else _argument_of_tanh
        argument = match(inner.inputs[0], value, region)
        every = [*taken, plus_one, inner, *argument] if argument is not None else []
        if every and region.closed(node, every):
            return made(node, "Gelu", GELU(inner.kind == "Tanh"), value), every
    return None


def _factors(node: Node, region: Region) -> tuple[list[str], float, list[Node]]:
    """The factors of a product: its values, the product of its numbers, and the product nodes within."""
    factors, number, taken, left = [], 1.0, [], [node]
    while left:
        product = left.pop()
        split = region.number(product)
        if product is not node:
            taken.append(product)
        if split:
            number = number / split[1] if product.kind == "Div" else number * split[1]
        elif product.kind == "Div":
            return [], number, []
        for name in (split[0],) if split else product.inputs:
            inner = region.maker(name, "Mul", "Div")
            alone = inner is not None and len(region.readers[name]) == 1
            if inner is not None and alone and (inner.kind == "Mul" or region.number(inner)):
                left.append(inner)
            else:
                factors.append(name)
    return factors, number, taken


def _argument_of_erf(name: str, value: str, region: Region) -> list[Node] | None:
    """The nodes of x/√2."""
    node = region.maker(name, "Mul", "Div")
    if node is None:
        return None
    factors, number, taken = _factors(node, region)
    return [node, *taken] if factors == [value] and close(number, 1 / sqrt(2)) else None


def _argument_of_tanh(name: str, value: str, region: Region) -> list[Node] | None:
    """The nodes of √(2/π) (x + 0.044715 x³)."""
    node = region.maker(name, "Mul", "Div")
    factors, number, taken = _factors(node, region) if node else ([], 0.0, [])
    total = region.maker(factors[0], "Add") if len(factors) == 1 else None
    if node is None or total is None or not close(number, sqrt(2 / pi)) or len(total.inputs) != 2:
        return None
    for linear, cubic in (total.inputs, total.inputs[::-1]):
        product = region.maker(cubic, "Mul")
        if linear != value or product is None:
            continue
        factors, number, within = _factors(product, region)
        cube = list(_cube(factors, value, region))
        if cube and close(number, 0.044715):
            return [node, *taken, total, product, *within, *(found for found in cube if found is not None)]
    return None


def _cube(factors: Sequence[str], value: str, region: Region) -> Iterator[Node | None]:
    """The nodes of x³: a `Pow`, or None for x·x·x, which has no node of its own. Nothing if it is no cube."""
    if factors == [value] * 3:
        yield None
    power = region.maker(factors[0], "Pow") if len(factors) == 1 else None
    found = region.number(power) if power else None
    if found == (value, 3.0):
        yield power


def layer_norm(node: Node, region: Region) -> Found | None:
    """(x − mean) / √(mean of its square + eps) · gamma + beta."""
    shifted = region.split(node) if node.kind == "Add" else None
    scaled = region.maker(shifted[0], "Mul") if shifted else None
    split = region.split(scaled) if scaled else None
    quotient = region.maker(split[0], "Div", "Mul") if split else None
    if shifted is None or scaled is None or split is None or quotient is None or len(quotient.inputs) != 2:
        return None
    for name, root_name in (quotient.inputs, quotient.inputs[::-1])[: 1 + (quotient.kind == "Mul")]:
        centred, root = region.maker(name, "Sub"), region.maker(root_name, "Sqrt", "Reciprocal")
        reciprocal = root if root is not None and root.kind == "Reciprocal" else None
        root = region.maker(reciprocal.inputs[0], "Sqrt") if reciprocal else root
        if centred is None or root is None or (reciprocal is None) != (quotient.kind == "Div"):
            continue
        found = _moments(centred, root, region)
        if found is None:
            continue
        axis, eps, within = found
        every = [scaled, quotient, centred, root, *within, *([reciprocal] if reciprocal else [])]
        sizes = {prod(split[1].shape), prod(shifted[1].shape)}
        if len(sizes) == 1 and region.closed(node, every):
            parameters = {"gamma": f"{node.output}/gamma", "beta": f"{node.output}/beta"}
            region.constants[parameters["gamma"]] = np.ascontiguousarray(split[1].reshape(-1))
            region.constants[parameters["beta"]] = np.ascontiguousarray(shifted[1].reshape(-1))
            norm = LayerNorm(eps, axis, only=True)
            value = centred.inputs[0]
            return Node(node.name, "LayerNormalization", norm, (value,), node.output, parameters, node.source), every
    return None


def _moments(centred: Node, root: Node, region: Region) -> tuple[int, float, list[Node]] | None:
    """The axis, eps and the nodes between x − mean and √(variance + eps)."""
    value, mean_name = centred.inputs
    mean, sum_with_eps = region.maker(mean_name, "ReduceMean"), region.maker(root.inputs[0], "Add")
    found = region.number(sum_with_eps) if sum_with_eps else None
    variance = region.maker(found[0], "ReduceMean") if found else None
    square = region.maker(variance.inputs[0], "Pow", "Mul") if variance else None
    if mean is None or sum_with_eps is None or found is None or variance is None or square is None:
        return None
    difference = region.maker(square.inputs[0], "Sub")
    power = region.number(square)
    squares = square.inputs[0] == square.inputs[1] if square.kind == "Mul" else power is not None and power[1] == 2
    if difference is None or difference.inputs != centred.inputs or mean.inputs != (value,) or not squares:
        return None
    axes = {node.operation.axes for node in (mean, variance) if isinstance(node.operation, Mean)}
    (over,) = axes if len(axes) == 1 else (None,)
    if over is None or len(over) != 1:
        return None
    others = [difference] if difference is not centred else []
    return over[0], found[1], [mean, sum_with_eps, variance, square, *others]
