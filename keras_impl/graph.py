"""What the graph of a Keras model says: its layers under canonical names, what each reads, what the model returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from common import layouts
from common.errors import TriptychError
from common.operations.names import keras_layer
from common.specs import get_spec, list_architectures
from common.specs.architecture import Architecture, with_softmax
from common.specs.calls import IMAGE_CALL, Call, named_calls, wired


def canonical_names(model: keras.Model) -> dict[str, str]:
    """Canonical layer names by Keras' own, for a model named after an architecture; other layers keep their names."""
    names = {layer.name: layer.name for layer in model.layers}
    if model.name in list_architectures():
        names |= {keras_layer(layer.name): layer.name for layer in with_softmax(get_spec(model.name)).layers}
    return names


FLATTENED = "H, W, C"
"""The order in which Keras flattens maps."""


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer in the model's graph; a layer may be called at several places."""

    layer: keras.Operation
    name: str
    """Canonical."""
    inputs: Any
    """The `KerasTensor` that it is called on, or a list of them."""
    output: keras.KerasTensor


def calls_of(model: keras.Model) -> list[LayerCall]:
    """Every call of a layer, in the order in which Keras makes them."""
    return [
        LayerCall(node.operation, name, node.arguments.args[0], node.outputs[0]) for node, name in named_nodes(model)
    ]


def named_nodes(model: keras.Model) -> list[tuple[Any, str]]:
    """Every call of a layer or an operation, with its canonical name; a layer may be called at several places."""
    return list(zip(nodes_of(model), named_calls(_calls(model), _spec_of(model)), strict=True))


def wiring(model: keras.Model) -> dict[str, list[str]]:
    """The layers that each layer depends on directly, by canonical name; `image` is one."""
    calls, spec = _calls(model), _spec_of(model)
    return wired(calls, named_calls(calls, spec), spec)


def _calls(model: keras.Model) -> list[Call]:
    nodes, own = nodes_of(model), canonical_names(model)
    made = {id(tensor): number for number, node in enumerate(nodes) for tensor in node.outputs}
    made[id(model.inputs[0])] = IMAGE_CALL
    return [
        Call(own.get(node.operation.name, node.operation.name), tuple(made[id(t)] for t in node.input_tensors))
        for node in nodes
    ]


def _spec_of(model: keras.Model) -> Architecture | None:
    height, width, _ = model.inputs[0].shape[1:]
    return get_spec(model.name, image_size=(height, width)) if model.name in list_architectures() else None


def flattened_from(tensor: keras.KerasTensor) -> tuple[int, int, int] | None:
    """The (H, W, C) of the map whose flattening a tensor of the model is, or None if it is no such thing."""
    source = tensor._keras_history.operation
    while isinstance(source, layers.Dropout):
        source = source.input._keras_history.operation
    if not isinstance(source, layers.Flatten) or len(source.input.shape) != 4:
        return None
    before = source.input._keras_history.operation
    # A permutation is a mistake; it must not change what the order is taken to be.
    return before.input.shape[1:] if isinstance(before, layers.Permute) else source.input.shape[1:]


def heads_of(model: keras.Model) -> dict[str, keras.KerasTensor]:
    """The outputs by name: `logits`, or `probabilities` after a softmax, and `aux1` and `aux2` if there are heads."""
    if isinstance(model.output, dict):
        return model.output
    (output,) = model.outputs
    softmax = isinstance(output._keras_history.operation, layers.Softmax)
    return {"probabilities" if softmax else "logits": output}


def graph_of(model: keras.Model) -> keras.Model:
    """The functional model that the layers' tensors belong to: a Sequential has one inside."""
    return getattr(model, "_functional", None) or model


def nodes_of(model: keras.Model) -> list[Any]:
    """Every call of a layer or an operation in the model's graph, in the order in which Keras makes them."""
    by_depth = graph_of(model)._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]


def outputs_of(model: keras.Model) -> dict[str, keras.KerasTensor]:
    """What the model returns, by name."""
    return named_outputs(graph_of(model).output)


def unnamed_operations(model: keras.Model) -> dict[str, list[str]]:
    """See `common.specs.recording.Unnamed`: layers and operations as `softmax (Softmax)`."""
    specified = {layer.name for layer in get_spec(model.name).layers}
    trails: dict[int, list[str]] = {}
    found: dict[str, list[str]] = {}
    for node, name in named_nodes(model):
        before = [operation for tensor in node.input_tensors for operation in trails.get(id(tensor), [])]
        if name in specified:
            found |= {name: before} if before else {}
        else:
            kind = f"{node.operation.name} ({type(node.operation).__name__})"
            trails |= {id(tensor): [*before, kind] for tensor in node.outputs}
    outputs = {name: trails.get(id(tensor), []) for name, tensor in outputs_of(model).items()}
    return found | {name: operations for name, operations in outputs.items() if operations}


def named_outputs(outputs: Any) -> dict[str, Any]:
    if isinstance(outputs, list | tuple):
        raise TriptychError(
            f"the model returns a {type(outputs).__name__}; several outputs come back in a dict, by name"
        )
    return outputs if isinstance(outputs, dict) else {"logits": outputs}


def canonical_output(tensor: keras.KerasTensor, value: np.ndarray) -> np.ndarray:
    flattened = flattened_from(tensor)
    return layouts.flat_to_channels_first(value, flattened) if flattened else layouts.to_channels_first(value)
