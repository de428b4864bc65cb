"""The gradients of a Keras model with respect to parameters, layers' outputs and the image, on any of its backends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from common import layouts
from common.operations.loss import AUXILIARY_WEIGHT
from common.parity.cudnn import direct_sums
from common.specs.architecture import IMAGE
from keras_impl.backend import named_variables, read_weights, to_canonical
from keras_impl.graph import calls_of, canonical_output, flattened_from, heads_of

Arrays = Mapping[str, np.ndarray]


@direct_sums()
def record_gradients(
    model: keras.Model,
    image: np.ndarray,
    *,
    injected: Arrays,
    drives: Arrays,
    labels: np.ndarray | None,
    training: bool,
) -> dict[str, dict[str, np.ndarray]]:
    """Differentiate Σ drive · output over the layers in `drives`, plus the training loss where there are labels.

    Args:
        model: with weights.
        image: float32, (N, C, H, W).
        injected: values that replace a layer's output for the layers after it, and let no gradient through.
        drives: the gradient that a layer's own output is given, by canonical layer name.
        labels: int64, (N,).
        training: whether batch normalisation uses the batch; dropout is off in any case.

    Returns:
        `outputs`, each layer's own; `gradients` with respect to what the layers after each were given, and to `image`;
        `parameters`, the gradients with respect to each; `weights`, as they are afterwards.
    """
    called = calls_of(model)
    tensors = {call.name: call.output for call in called}
    trainable = {name: v for name, v in named_variables(model).items() if v.trainable}

    def native(name: str, array: np.ndarray) -> Any:
        """A canonical array as a tensor, in the layout that it has after a layer."""
        flattened = flattened_from(tensors[name])
        if flattened:
            height, width, channels = flattened
            array = array.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(array.shape)
        return ops.convert_to_tensor(np.ascontiguousarray(layouts.to_channels_last(array)))

    # A zero is added to what each layer hands on; the gradient with respect to it is that of the output.
    pixels = np.ascontiguousarray(layouts.to_channels_last(image))
    zeros = {name: np.zeros((len(image), *tensor.shape[1:]), np.float32) for name, tensor in tensors.items()}
    values = [ops.convert_to_numpy(variable) for variable in trainable.values()]

    def loss_of(given: Sequence[Any]) -> tuple[Any, Any]:
        of_image, of_layers = given[0], dict(zip(zeros, given[1:], strict=False))
        of_variables = given[1 + len(zeros) :]
        outputs: dict[str, Any] = {}
        handed_on = {id(model.inputs[0]): of_image}
        loss = 0.0
        mapping = [(variable, value) for variable, value in zip(trainable.values(), of_variables, strict=True)]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            for call in called:
                name = call.name
                inputs = keras.tree.map_structure(lambda tensor: handed_on[id(tensor)], call.inputs)
                normalises = isinstance(call.layer, layers.BatchNormalization)
                output = call.layer(inputs, training=training) if normalises else call.layer(inputs)
                outputs[name] = output
                onwards = native(name, injected[name]) if name in injected else output
                onwards = handed_on[id(call.output)] = onwards + of_layers[name]
                if name in drives:
                    driven = output if name in injected else onwards
                    loss = loss + ops.sum(driven * native(name, drives[name]))
            stored = {
                name: scope.get_current_value(variable)
                for name, variable in named_variables(model).items()
                if not variable.trainable
            }
        if labels is not None:
            heads = heads_of(model)
            for name, tensor in heads.items():
                losses = keras.losses.sparse_categorical_crossentropy(labels, handed_on[id(tensor)], from_logits=True)
                loss = loss + (1.0 if name == "logits" else AUXILIARY_WEIGHT) * ops.mean(losses)
        return loss, (outputs, {name: value for name, value in stored.items() if value is not None})

    found, (outputs, stored) = _differentiate(loss_of, [pixels, *zeros.values(), *values])
    by_image, by_layers, by_variables = found[0], found[1 : 1 + len(zeros)], found[1 + len(zeros) :]
    weights = read_weights(model)
    for name, value in stored.items():
        weights[name] = ops.convert_to_numpy(value)
    return {
        "outputs": {n: canonical_output(tensors[n], ops.convert_to_numpy(v)) for n, v in outputs.items()},
        "gradients": {IMAGE: layouts.to_channels_first(by_image)}
        | {name: canonical_output(tensors[name], g) for name, g in zip(zeros, by_layers, strict=True)},
        "parameters": {n: to_canonical(model, n, g) for n, g in zip(trainable, by_variables, strict=True)},
        "weights": weights,
    }


def _differentiate(loss_of: Callable, arrays: Sequence[np.ndarray]) -> tuple[list[np.ndarray], Any]:
    """The gradients of a loss by its arguments, 0 where it does not depend on one, and what it returns beside."""
    if keras.backend.backend() == "jax":
        import jax

        # Not under `jit`, fast as it is: XLA computes a sum again where it is used, in another order, and what it
        # returns is not what the next layer was given.
        found, beside = jax.grad(loss_of, has_aux=True)([jax.numpy.asarray(array) for array in arrays])
    elif keras.backend.backend() == "torch":
        import torch

        given = [ops.convert_to_tensor(array).clone().requires_grad_() for array in arrays]
        loss, beside = loss_of(given)
        found = torch.autograd.grad(loss, given, allow_unused=True)
    else:
        import tensorflow as tf

        given = [tf.convert_to_tensor(array) for array in arrays]
        with tf.GradientTape() as tape:
            tape.watch(given)
            loss, beside = loss_of(given)
        found = tape.gradient(loss, given)
    zeros = (np.zeros_like(array) for array in arrays)
    return [
        zero if g is None else np.array(ops.convert_to_numpy(g)) for g, zero in zip(found, zeros, strict=True)
    ], beside
