"""A graph cut apart after some of its layers, so that other values than theirs can be given to what follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import tensorflow.compat.v1 as tf


def cut(
    graph: tf.Graph,
    tensors: Mapping[str, tf.Tensor],
    injected: Sequence[str],
    variables: Iterable[tf.Variable],
    more: Iterable[tf.Tensor] = (),
) -> tuple[dict[str, tf.Tensor], Callable[[tf.Tensor], tf.Tensor]]:
    """A copy of the network on the same variables, with placeholders after the layers in `injected`.

    A tensor that is fed in TensorFlow 1 is not computed; with a placeholder after it, it is both.

    Args:
        graph: of the network.
        tensors: the output of every layer, by name.
        injected: names of layers.
        variables: of the network.
        more: other tensors that are to be in the copy.

    Returns:
        Every layer's own output in the copy; and what gives, for a tensor of the network, what those that read it are
        given in the copy.
    """
    placeholders = {tensors[name].name: tf.placeholder(tensors[name].dtype, tensors[name].shape) for name in injected}
    ends = [tensor.op.name for tensor in (*tensors.values(), *more)]
    definition = tf.graph_util.extract_sub_graph(graph.as_graph_def(), ends)
    used = {node.name for node in definition.node}
    handles = [variable.handle for variable in variables if variable.op.name in used]
    shared = {tensor.name: tensor for tensor in (graph.get_tensor_by_name("images:0"), *handles)} | placeholders
    with tf.name_scope("cut") as scope:
        tf.import_graph_def(definition, shared, name=scope)

    def own(tensor: tf.Tensor) -> tf.Tensor:
        return graph.get_tensor_by_name(f"{scope}{tensor.name}")

    def behind(tensor: tf.Tensor) -> tf.Tensor:
        return shared[tensor.name] if tensor.name in shared else own(tensor)

    return {name: own(tensor) for name, tensor in tensors.items()}, behind
