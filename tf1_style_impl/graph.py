"""What a TensorFlow 1 graph says: its layers, what each reads, what the network returns."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import tensorflow.compat.v1 as tf

from common import layouts
from common.specs import get_spec
from common.specs.architecture import IMAGE, with_softmax

ARCHITECTURE = "architecture"
"""The graph collection that holds the architecture's name."""

RETURNED = "returned"
"""What the names of the collections begin with that hold what a network returns: `returned/logits`, `returned/aux1`."""


def heads_of(graph: tf.Graph) -> dict[str, tf.Tensor]:
    """The outputs of a graph that `build` made: `logits`, and `aux1`, `aux2` where there are auxiliary heads.

    After a softmax they are `probabilities`, and those of the heads.
    """
    architecture = next(iter(graph.get_collection(ARCHITECTURE)), None)
    spec = get_spec(architecture) if architecture else None
    softmax = any(operation.name == "probabilities" for operation in graph.get_operations())
    layers = (with_softmax(spec) if softmax else spec).outputs if spec else {}
    first = "probabilities" if softmax else "logits"
    return {name: graph.get_tensor_by_name(f"{layer}:0") for name, layer in layers.items()} | {
        first: graph.get_tensor_by_name(f"{first}:0")
    }


def flattened_from(tensor: tf.Tensor) -> tuple[int, int, int] | None:
    """The (H, W, C) of the map whose flattening a tensor of the graph is, or None if it is no such thing."""
    operation = without_dropout(tensor).op
    if operation.type != "Reshape" or operation.inputs[0].shape.rank != 4 or tensor.shape.rank != 2:
        return None
    source = operation.inputs[0]
    if source.op.type == "Transpose":  # a mistake; it must not change what the order is taken to be
        source = source.op.inputs[0]
    return tuple(source.shape[1:])


def without_dropout(tensor: tf.Tensor) -> tf.Tensor:
    """The tensor that `layers.dropout` was applied to, if `tensor` is its output; else `tensor` itself.

    TensorFlow's dropout is where(random ≥ rate, x / (1 − rate), 0).
    """
    if tensor.op.type == "Identity" and (select := tensor.op.inputs[0].op).type == "SelectV2":
        condition, scaled, _ = (operand.op for operand in select.inputs)
        if condition.type == "GreaterEqual" and condition.inputs[0].op.type.startswith("Random"):
            return scaled.inputs[0]
    return tensor


FLATTENED = "H, W, C"
"""The order in which TensorFlow flattens maps."""


def layers_of(graph: tf.Graph) -> list[str]:
    """The canonical names of the layers in the graph, in its order; their outputs are the tensors of these names."""
    (architecture,) = graph.get_collection(ARCHITECTURE)
    layers = {layer.name for layer in with_softmax(get_spec(architecture)).layers}
    return [operation.name for operation in graph.get_operations() if operation.name in layers]


def wiring(session: tf.Session) -> dict[str, list[str]]:
    """The layers that each layer depends on directly, by canonical name; `image` is one."""
    layers = layers_of(session.graph)
    names = {name: name for name in layers} | {"images": IMAGE}
    found: dict[str, list[str]] = {}
    for name in layers:
        reads: dict[str, None] = {}
        pending, met = [session.graph.get_operation_by_name(name)], set()
        while pending:
            for tensor in pending.pop().inputs:
                if tensor.op.name in names:
                    reads[names[tensor.op.name]] = None
                elif tensor.op not in met:
                    met.add(tensor.op)
                    pending.append(tensor.op)
        found[name] = list(reads)
    return found


def returned_by(graph: tf.Graph) -> dict[str, tf.Tensor]:
    """What the network that `build` made returns, by name."""
    collections = [name for name in graph.get_all_collection_keys() if str(name).startswith(f"{RETURNED}/")]
    return {name.partition("/")[2]: graph.get_collection(name)[0] for name in collections}


def unnamed_operations(session: tf.Session) -> dict[str, list[str]]:
    """See `common.specs.recording.Unnamed`: operations as `mul (Mul)`."""
    graph = session.graph
    layers, following = layers_of(graph), following_image(graph)
    between = following - {*layers, "images"}
    found = {name: _before(tensors_entering(graph, name, following), between) for name in layers}
    found |= {
        name: _before(tensor.op.inputs if tensor.name == "logits:0" else [tensor], between)
        for name, tensor in returned_by(graph).items()
    }
    return {name: operations for name, operations in found.items() if operations}


def following_image(graph: tf.Graph) -> set[str]:
    """The operations whose results follow from the image's numbers, which constants, variables and shapes do not."""
    following = {"images"}
    for operation in graph.get_operations():  # in an order in which they can be computed
        if operation.type != "Shape" and any(tensor.op.name in following for tensor in operation.inputs):
            following.add(operation.name)
    return following


def tensors_entering(graph: tf.Graph, layer: str, following: Collection[str]) -> list[tf.Tensor]:
    """The tensors that follow from the image and enter a layer: those that its own operations read, but do not make."""
    pending, entering = [graph.get_operation_by_name(layer)], {}
    while pending:
        for tensor in pending.pop().inputs:
            if tensor.op.name.startswith(f"{layer}/"):
                pending.append(tensor.op)
            elif tensor.op.name in following:
                entering[tensor.name] = tensor
    return list(entering.values())


def _before(tensors: Iterable[tf.Tensor], between: Collection[str]) -> list[str]:
    """Of the operations between layers, those that lead to some tensors from the layers before them, or the image."""
    pending, found = list(tensors), {}
    while pending:
        operation = pending.pop().op
        if operation.name in between and operation.name not in found:
            found[operation.name] = f"{operation.name} ({operation.type})"
            pending += operation.inputs
    return list(reversed(found.values()))


def canonical_output(tensor: tf.Tensor, value: np.ndarray) -> np.ndarray:
    flattened = flattened_from(tensor)
    return layouts.flat_to_channels_first(value, flattened) if flattened else layouts.to_channels_first(value)
