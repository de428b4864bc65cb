"""Moves the first network's weights into the variables of the second, and records what was done with each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np

from common.graphs import Graph, Node
from common.operations import BatchNorm
from common.prove.alignment import Alignment, Pair
from common.prove.marks import Marks, Place, scale_of

_LETTERS = {1: "C", 2: "OI", 4: "OIHW", 5: "OIDHW"}
"""The letters of a canonical tensor's axes, by their number."""


@dataclass(frozen=True)
class Move:
    """One variable of the second network, and where its numbers come from."""

    to: str
    source: str
    """The first network's variable, or constant."""
    change: str
    """The change of layout: `O, I, H, W → H, W, I, O`."""
    shape: tuple[int, ...]


@dataclass
class Moved:
    """The weights for the second network."""

    variables: dict[str, np.ndarray]
    moves: list[Move] = field(default_factory=list)
    without_place: list[str] = field(default_factory=list)
    """Weights of the first that the second has no variable for, in words."""

    @property
    def kept(self) -> list[str]:
        """The variables of the second that are not changed."""
        moved = {move.to for move in self.moves}
        return [name for name in self.variables if name not in moved]


def restored(graph: Graph, variables: Mapping[str, np.ndarray]) -> Graph:
    """A graph in which normalisations with only a scale and a shift get their gamma, variance and eps back.

    Args:
        graph: in canonical layout.
        variables: the variables of the model that it was made from.
    """
    vectors = {name: array for name, array in variables.items() if array.ndim == 1}
    constants = dict(graph.constants)
    nodes = []
    for node in graph.nodes:
        found = None
        if isinstance(node.operation, BatchNorm) and node.operation.eps == 0 and vectors:
            owner = _siblings(node, constants, vectors)
            found = scale_of(constants[node.parameters["gamma"]], owner) or scale_of(
                constants[node.parameters["gamma"]], vectors
            )
        if found:
            variance = f"{node.output}/stored variance"
            gamma = f"{node.output}/stored gamma"
            constants[variance] = vectors[found.variance]
            constants[gamma] = vectors[found.gamma] if found.gamma else np.ones_like(vectors[found.variance])
            parameters = {**node.parameters, "gamma": gamma, "variance": variance}
            node = replace(node, operation=BatchNorm(found.eps), parameters=parameters)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), constants=constants)


def _siblings(
    node: Node, constants: Mapping[str, np.ndarray], vectors: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The variables that belong to the same layer as a normalisation's mean or shift, by their names."""
    known = [constants[node.parameters[kind]].tobytes() for kind in ("mean", "beta")]
    layers = {_layer(name) for name, array in vectors.items() if array.tobytes() in known}
    return {name: array for name, array in vectors.items() if _layer(name) in layers}


def _layer(variable: str) -> str:
    return variable.replace(".", "/").rpartition("/")[0]


def move(alignment: Alignment, marked: Graph, marks: Marks, own: Mapping[str, np.ndarray], names: Names) -> Moved:
    """The variables of the second network, with the weights of the first in their places.

    Args:
        alignment: the alignment of both.
        marked: the second, in canonical layout, with marks for weights.
        marks: the marks.
        own: its own variables.
        names: the names of the first network's variables.
    """
    return _Mover(alignment, marked, marks, own, names).moved


def unfilled(alignment: Alignment, marks: Marks, moved: Moved) -> list[str]:
    """The variables of the second that its layers use and that got nothing from the first, in words."""
    filled = {found.to for found in moved.moves}
    found = {}
    for node in alignment.second.nodes:
        for name in node.parameters.values():
            place = marks.place(alignment.second.constants[name]) if name in alignment.second.constants else None
            if place and place.variable not in filled:
                found[place.variable] = f"{place.variable}, in {node.source or node.name} ({node.kind}),"
    return list(found.values())


class Names:
    """The names of the first network's variables, found by their numbers."""

    def __init__(self, variables: Mapping[str, np.ndarray]) -> None:
        self._by_numbers: dict[bytes, list[str]] = {}
        self.variables = variables
        for name, array in variables.items():
            self._by_numbers.setdefault(_numbers(array), []).append(name)

    def of(self, array: np.ndarray, otherwise: str) -> tuple[str, str | None]:
        """The variable with the numbers of an array, and its layout; `otherwise` if there is none, or several."""
        found = self._by_numbers.get(_numbers(array), [])
        if len(found) != 1 or array.size < 2:
            return otherwise, None
        variable = self.variables[found[0]]
        letters = _LETTERS.get(array.ndim, "")
        for axes in permutations(range(array.ndim)):
            if letters and np.array_equal(array.transpose(axes).reshape(-1), variable.reshape(-1)):
                return found[0], _layout(axes, letters, array.shape, variable.ndim)
        return found[0], None


def _numbers(array: np.ndarray) -> bytes:
    return np.sort(array, axis=None).tobytes()


class _Mover:
    """Moves the weights of the aligned pairs. The marks tell the variable of each constant of the second, and the place
    of each number in it. The first's constant is written there, element by element, so that no layout has to be known.
    The layouts are found afterwards, only for the report."""

    def __init__(
        self, alignment: Alignment, marked: Graph, marks: Marks, own: Mapping[str, np.ndarray], names: Names
    ) -> None:
        self.first, self.marked, self.marks, self.names = alignment.first, marked, marks, names
        self.moved = Moved({name: array.copy() for name, array in own.items()})
        self.theirs = marked.makers()
        for pair in alignment.pairs:
            self._pair(pair)
        for alone in alignment.only_first:
            for role, name in self._arrays(alone.node, self.first).items():
                if not role.startswith("operand"):  # which are numbers that it computes with, as for scaling an image
                    self._tell(alone.node, role, name)

    def _pair(self, pair: Pair) -> None:
        node, other = pair.first, self.theirs[pair.second.output]
        if pair.after is not None:
            self._without_normalisation(node, self.theirs[pair.after.output], other)
        elif isinstance(node.operation, BatchNorm) and isinstance(other.operation, BatchNorm):
            ours = {kind: self.first.constants[name] for kind, name in node.parameters.items()}
            self._normalisation(node, ours, node.parameters, node.operation.eps, other)
        else:
            roles = self._arrays(node, self.first)
            for role, name in self._arrays(other, self.marked).items():
                array = self.first.constants[roles[role]] if role in roles else None
                self._put(array, roles.get(role, ""), self.marked.constants[name], pair, role)
            for role in roles.keys() - self._arrays(other, self.marked).keys():
                if self.first.constants[roles[role]].any():
                    self._tell(node, role, roles[role])

    def _arrays(self, node: Node, graph: Graph) -> dict[str, str]:
        """The constants of a node that are weights, by their roles."""
        roles = {kind: name for kind, name in node.parameters.items() if name in graph.constants}
        constants = [name for name in node.inputs if name in graph.constants]
        roles |= {f"operand {place}": name for place, name in enumerate(constants) if node.kind != "Resize"}
        if node.kind == "MatMul" and "operand 0" in roles:
            roles["weight"] = roles.pop("operand 0")
        return roles

    def _tell(self, node: Node, role: str, name: str) -> None:
        """Say that a weight has no place. A single number may be no weight: then it is part of the formula."""
        if role.startswith("operand") and self.first.constants[name].size == 1:
            return
        called = self.names.of(self.first.constants[name], name)[0]
        self.moved.without_place.append(f"{called}, the {role} of {node.name} ({node.kind})")

    def _put(self, array: np.ndarray | None, source: str, theirs: np.ndarray, pair: Pair, role: str) -> None:
        """Write numbers into the variable that a constant of the second comes from; zeros if the first has none."""
        place = self.marks.place(theirs)
        if place is None:
            if array is not None and array.any() and not _same(array, theirs):
                self._tell(pair.first, role, source)
            return
        if array is None:
            self._write(place, np.zeros(theirs.shape, np.float32), f"none: {pair.first.name} has no {role}", None)
            return
        if _squeezed(array.shape) != _squeezed(theirs.shape) and pair.first.kind != pair.second.kind:
            # A MatMul has its matrix (in, out), a Gemm and a convolution have it (out, in).
            array = array.T if _squeezed(array.T.shape) == _squeezed(theirs.shape) else array
        if _squeezed(array.shape) != _squeezed(theirs.shape):
            self._tell(pair.first, role, source)
            return
        called, layout = self.names.of(array, source)
        self._write(place, array, called, layout)

    def _write(self, place: Place, array: np.ndarray, source: str, layout: str | None) -> None:
        variable = self.moved.variables[place.variable]
        variable.reshape(-1)[place.indices.reshape(-1)] = array.reshape(-1)
        theirs = _layout_of(place, variable.shape)
        canonical = ", ".join(_LETTERS.get(array.ndim, ""))
        before = layout or canonical
        change = "as it is" if before == theirs or not before else f"{before} → {theirs}"
        self.moved.moves.append(Move(place.variable, source, change, variable.shape))

    def _normalisation(
        self, node: Node, ours: dict[str, np.ndarray], sources: Mapping[str, str], eps: float, other: Node
    ) -> None:
        """Move a batch normalisation into another one.

        A graph has all four parameters of a normalisation, or only its scale γ / √(variance + eps) and its shift. If
        the second's variables were combined into a scale, `Marks.scale` finds them. If the first has only the scale, it
        becomes the second's gamma, and the variance becomes 1 − eps, so that the second's root is 1. If the second has
        a variable for the scale, it gets the first one's scale.

        Args:
            node: of the first.
            ours: gamma, beta, mean and variance.
            sources: what they are called.
            eps: that belongs to them.
            other: of the second.
        """
        theirs = {kind: self.marked.constants[name] for kind, name in other.parameters.items()}
        called = {kind: self.names.of(array, sources[kind])[0] for kind, array in ours.items()}
        places = {kind: self.marks.place(array) for kind, array in theirs.items()}
        scale = self.marks.scale(theirs["gamma"]) if places["gamma"] is None else None
        their_eps = other.operation.eps if isinstance(other.operation, BatchNorm) else 0.0
        if scale:
            their_eps = scale.eps
            everything = np.arange(theirs["gamma"].size)
            places["gamma"] = Place(scale.gamma, everything) if scale.gamma else None
            places["variance"] = Place(scale.variance, everything)
        if eps == 0 and (ours["variance"] == 1).all():  # of which scale and shift alone are known
            ours = ours | {"variance": np.full_like(ours["variance"], np.float32(1) - np.float32(their_eps))}
            called["variance"] = f"1 − {their_eps:g}, since only the scale is known"
        if places["gamma"] is not None and places["variance"] is None and their_eps == 0:  # it has the scale alone
            exact = ours["gamma"].astype(np.float64) / np.sqrt(ours["variance"].astype(np.float64) + eps)
            ours = ours | {"gamma": exact.astype(np.float32), "variance": np.ones_like(ours["variance"])}
            called["gamma"] = f"{called['gamma']} / √(variance + eps)"
        for kind, place in places.items():
            if place is not None:
                self._write(place, ours[kind], called[kind], "C")
            elif not (ours[kind] == (kind in ("gamma", "variance"))).all():
                self.moved.without_place.append(f"{called[kind]}, the {kind} of {node.name} ({node.kind})")

    def _without_normalisation(self, node: Node, layer: Node, norm: Node) -> None:
        """Move a layer into one with a normalisation after it, which then only adds the bias."""
        ours, theirs = self._arrays(node, self.first), self._arrays(layer, self.marked)
        weights = self.first.constants[ours["weight"]]
        self._put(weights, ours["weight"], self.marked.constants[theirs["weight"]], Pair(node, layer), "weight")
        if "bias" in theirs:
            self._put(None, "", self.marked.constants[theirs["bias"]], Pair(node, layer), "bias")
        zeros = np.zeros(len(weights), np.float32)
        bias = self.first.constants[ours["bias"]] if "bias" in ours else zeros
        arrays = {"gamma": zeros + 1, "beta": bias, "mean": zeros, "variance": zeros + 1}
        sources = dict.fromkeys(arrays, "none: it has no normalisation") | {"beta": ours.get("bias", "none: no bias")}
        self._normalisation(node, arrays, sources, 0.0, norm)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.size == other.size and np.array_equal(one.reshape(-1), other.reshape(-1))


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _layout_of(place: Place, shape: tuple[int, ...]) -> str:
    """The layout of a variable in letters of the canonical tensor's axes: `H, W, I, O`."""
    indices = place.indices
    letters = _LETTERS.get(indices.ndim)
    if letters is None or indices.size != int(np.prod(shape)):
        return "some of it" if indices.size != int(np.prod(shape)) else "rearranged"
    orders = permutations(range(indices.ndim))
    for axes in sorted(orders, key=lambda axes: tuple(indices.shape[axis] for axis in axes) != shape):
        turned = indices.transpose(axes).reshape(-1)
        if turned[0] == 0 and np.array_equal(turned, np.arange(indices.size)):
            return _layout(axes, letters, indices.shape, len(shape))
    return "another order of flattening" if indices.ndim == 2 else "rearranged"


def _layout(axes: tuple[int, ...], letters: str, shape: tuple[int, ...], rank: int) -> str:
    """The letters of axes in an order. Axes of length 1 are left out if the variable has fewer axes."""
    kept = [axis for axis in axes if rank >= len(axes) or shape[axis] != 1]
    return ", ".join(letters[axis] for axis in kept)
