"""The gradients of a TensorFlow 1 graph by every variable, every layer's output and the images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow.compat.v1 as tf

from common import layouts
from common.operations.loss import AUXILIARY_WEIGHT
from common.specs import get_spec
from common.specs.architecture import IMAGE
from tf1_style_impl import layers
from tf1_style_impl.backend import named_variables, read_weights, to_canonical
from tf1_style_impl.catalogue import BUILDERS
from tf1_style_impl.cut import cut
from tf1_style_impl.graph import ARCHITECTURE, canonical_output, flattened_from

Arrays = Mapping[str, np.ndarray]


def record_gradients(
    session: tf.Session,
    image: np.ndarray,
    *,
    injected: Arrays,
    drives: Arrays,
    labels: np.ndarray | None,
    training: bool,
) -> dict[str, dict[str, np.ndarray]]:
    """Differentiate Σ drive · output over the layers in `drives`, plus the training loss where there are labels.

    Args:
        session: with weights.
        image: float32, (N, C, H, W).
        injected: values that replace a layer's output for the layers after it, and let no gradient through.
        drives: the gradient that a layer's own output is given, by canonical layer name.
        labels: int64, (N,).
        training: whether batch normalisation uses the batch; dropout is off in any case.

    Returns:
        `outputs`, each layer's own; `gradients` with respect to what the layers after each were given, and to `image`;
        `parameters`, the gradients with respect to each; `weights`, as they are afterwards.
    """
    graph = session.graph
    spec = get_spec(graph.get_collection(ARCHITECTURE)[0])
    variables = {name: v for name, v in named_variables(graph).items() if v.trainable}
    with graph.as_default():
        scope, updates = _training_tower(graph, variables) if training else ("", [])
        tensors = {layer.name: graph.get_tensor_by_name(f"{scope}{layer.name}:0") for layer in spec.layers}
        pixels = graph.get_tensor_by_name("images:0")

        def native(name: str, array: np.ndarray) -> np.ndarray:
            flattened = flattened_from(tensors[name])
            if flattened:
                height, width, channels = flattened
                return array.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(array.shape)
            return layouts.to_channels_last(array)

        pixels_fed = {pixels: layouts.to_channels_last(image)}
        behind = {name: native(name, array) for name, array in injected.items()}
        own = given = tensors
        if injected:
            own, given_for = cut(graph, tensors, list(injected), named_variables(graph).values())
            given = {name: given_for(tensor) for name, tensor in tensors.items()}
        driving = {tf.placeholder(own[name].dtype): native(name, array) for name, array in drives.items()}
        ys, grad_ys = [own[name] for name in drives], list(driving)
        if labels is not None:
            ys.append(_loss(spec.outputs, given, labels))
            grad_ys.append(tf.constant(1.0))
        sources = {IMAGE: pixels, **given, **variables}
        gradients = tf.gradients(ys, list(sources.values()), grad_ys)
        fetches = {name: g for name, g in zip(sources, gradients, strict=True) if g is not None}
        feed = pixels_fed | driving | {given[name]: array for name, array in behind.items()}
        found, outputs = session.run([fetches, own], feed)
        session.run(updates, pixels_fed | {tensors[name]: array for name, array in behind.items()})
    return {
        "outputs": {name: canonical_output(tensors[name], array) for name, array in outputs.items()},
        "gradients": {name: canonical_output(tensors[name], found[name]) for name in tensors if name in found}
        | ({IMAGE: layouts.to_channels_first(found[IMAGE])} if IMAGE in found else {}),
        "parameters": {name: to_canonical(graph, name, found[name]) for name in variables if name in found},
        "weights": read_weights(session),
    }


def _training_tower(graph: tf.Graph, variables: Mapping[str, tf.Variable]) -> tuple[str, list[tf.Operation]]:
    """The network once more on the same variables, as it is while training; its name scope, and its updates."""
    spec = get_spec(graph.get_collection(ARCHITECTURE)[0])
    classes = variables[f"{spec.outputs['logits']}/weight"].shape[-1]
    with (
        tf.variable_scope(tf.get_variable_scope(), reuse=True),
        tf.name_scope("gradients_of_training") as scope,
        layers.training(0, tf.constant(0, tf.int64)) as updates,
    ):
        images, keep_prob = graph.get_tensor_by_name("images:0"), tf.constant(1.0)
        BUILDERS[spec.name](images, keep_prob, num_classes=classes)
    return scope, updates


def _loss(outputs: Mapping[str, str], tensors: Mapping[str, tf.Tensor], labels: np.ndarray) -> tf.Tensor:
    """The cross-entropy of the logits, and of the auxiliary heads by their weight."""
    total = tf.constant(0.0)
    for head, layer in outputs.items():
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=tensors[layer])
        total += (1.0 if head == "logits" else AUXILIARY_WEIGHT) * tf.reduce_mean(losses)
    return total
