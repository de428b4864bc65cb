"""Build, load, read and record: what the project asks of every framework, here of TensorFlow 1's graph and session.

A model is a `Session`. Its graph has the placeholders `images:0` (N, H, W, C) and `keep_prob:0` (1.0 unless fed), the
output `logits:0`, and for every layer a tensor of the layer's name, such as `conv1:0`. Auxiliary heads are the tensors
of their last layers, `aux1/classifier:0` and `aux2/classifier:0`: computed where they are fetched, and only there.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.util import _pywrap_util_port

from common import layouts
from common.errors import Unavailable
from common.names import PARAMETERS, layer_of
from common.operations import Shape
from common.parity import evidence
from common.recording import Recording, Unnamed
from common.specs import get_spec
from common.specs.architecture import IMAGE, softmax_layer, with_softmax
from common.training.recipe import kernel_factors
from common.weights import Weights, check_weights
from tf1_style_impl.catalogue import BUILDERS
from tf1_style_impl.cut import cut

ARCHITECTURE = "architecture"
"""The graph collection that holds the architecture's name."""

RETURNED = "returned"
"""What the names of the collections begin with that hold what a network returns: `returned/logits`, `returned/aux1`."""


def build(
    architecture: str,
    *,
    num_classes: int | None = None,
    image_size: tuple[int, int] | None = None,
    softmax: bool = False,
) -> tf.Session:
    """A session on a new graph, its variables set by their initialisers, but for what `kernel_factors` says.

    Args:
        architecture: a name that `common.list_architectures` gives.
        num_classes: the number of logits; the paper's where it is not given.
        image_size: (height, width) in pixels; the paper's where it is not given.
        softmax: whether there is `probabilities:0` too, of a layer `softmax`; and of `aux1/softmax`, `aux2/softmax`.

    Raises:
        TriptychError: the architecture is unknown or does not take these options.
    """
    return _build(tf.float32, architecture, num_classes, image_size, softmax)


def build_float64(
    architecture: str, *, num_classes: int | None = None, image_size: tuple[int, int] | None = None
) -> tf.Session:
    """`build`, in float64."""
    return _build(tf.float64, architecture, num_classes, image_size)


def _build(
    dtype: tf.DType,
    architecture: str,
    num_classes: int | None,
    image_size: tuple[int, int] | None,
    softmax: bool = False,
) -> tf.Session:
    spec = get_spec(architecture, num_classes=num_classes, image_size=image_size)
    channels, height, width = spec.input_shape
    options = {} if num_classes is None else {"num_classes": num_classes}
    with tf.Graph().as_default() as graph:
        images = tf.placeholder(dtype, [None, height, width, channels], name="images")
        keep_prob = tf.placeholder_with_default(tf.constant(1.0, dtype), [], name="keep_prob")
        with tf.variable_scope(tf.get_variable_scope(), dtype=dtype):
            outputs = BUILDERS[spec.name](images, keep_prob, **options)
        heads = outputs if isinstance(outputs, dict) else {"logits": outputs}
        returned = heads | {"logits": tf.identity(heads["logits"], name="logits")}
        if softmax:
            returned = {n: tf.nn.softmax(x, name=softmax_layer(spec.outputs[n])) for n, x in heads.items()}
            returned["probabilities"] = tf.identity(returned.pop("logits"), name="probabilities")
        for name, tensor in returned.items():
            tf.add_to_collection(f"{RETURNED}/{name}", tensor)
        tf.add_to_collection(ARCHITECTURE, spec.name)
        session = tf.Session(graph=graph)
        session.run(tf.global_variables_initializer())
        variables = named_variables(graph)
        factors = kernel_factors(spec, variables)
        values = session.run({name: variables[name] for name in factors})
        _set(session, [(variables[name], factor * values[name]) for name, factor in factors.items()])
    return session


def _set(session: tf.Session, values: Sequence[tuple[tf.Variable, np.ndarray]]) -> None:
    """Assign to variables; feeding the initialisers' inputs keeps the values out of the graph."""
    feed = {variable.initializer.inputs[1]: array for variable, array in values}
    session.run([variable.initializer for variable, _ in values], feed)


def heads_of(graph: tf.Graph) -> dict[str, tf.Tensor]:
    """The outputs of a graph that `build` made: `logits`, and `aux1`, `aux2` where there are auxiliary heads.

    Behind a softmax they are `probabilities`, and those of the heads.
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


@dataclass(frozen=True)
class _Parameter:
    """A variable of the graph and the way between its layout and the canonical one."""

    variable: tf.Variable
    to_tf: Callable[[np.ndarray], np.ndarray]
    to_canonical: Callable[[np.ndarray], np.ndarray]

    @property
    def canonical_shape(self) -> tuple[int, ...]:
        # The change of layout is applied to an array that takes no memory.
        return self.to_canonical(np.broadcast_to(np.float32(0), self.variable.shape)).shape


def _parameters(graph: tf.Graph) -> dict[str, _Parameter]:
    """Every parameter by canonical name, which is the variable's own."""
    parameters = {}
    for variable in graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES):
        name = variable.op.name
        if name.rpartition("/")[2] not in PARAMETERS:
            continue  # an optimiser's
        to_tf = to_canonical = np.asarray
        if variable.shape.rank == 4:
            to_tf, to_canonical = layouts.conv_to_hwio, layouts.conv_from_hwio
        elif variable.shape.rank == 3:
            to_tf, to_canonical = layouts.per_channel_to_hwc, layouts.per_channel_from_hwc
        elif variable.shape.rank == 2:
            flattened = flattened_from(graph.get_operation_by_name(f"{layer_of(name)}/MatMul").inputs[0])
            to_tf = partial(layouts.dense_to_io, flattened=flattened)
            to_canonical = partial(layouts.dense_from_io, flattened=flattened)
        parameters[name] = _Parameter(variable, to_tf, to_canonical)
    return parameters


def named_variables(graph: tf.Graph) -> dict[str, tf.Variable]:
    """Every parameter and stored statistic by canonical name, in TensorFlow's layout."""
    return {name: parameter.variable for name, parameter in _parameters(graph).items()}


def to_canonical(graph: tf.Graph, name: str, array: np.ndarray) -> np.ndarray:
    """An array of the shape of a parameter, such as its gradient, in the canonical layout."""
    return np.array(_parameters(graph)[name].to_canonical(array), order="C")


def load_weights(session: tf.Session, weights: Weights, *, skip: Collection[str] = ()) -> None:
    """Assign canonical weights to the session's variables, but for the layers in `skip`, which keep what they hold.

    Raises:
        TriptychError: the weights do not fit; nothing has been changed then.
    """
    parameters = _parameters(session.graph)
    check_weights({name: parameter.canonical_shape for name, parameter in parameters.items()}, weights, skip=skip)
    loaded = {name: parameter for name, parameter in parameters.items() if layer_of(name) not in skip}
    _set(session, [(parameter.variable, parameter.to_tf(weights[name])) for name, parameter in loaded.items()])


def read_weights(session: tf.Session) -> dict[str, np.ndarray]:
    """A copy of the session's variables, float32, in the canonical layout."""
    parameters = _parameters(session.graph)
    values = session.run({name: parameter.variable for name, parameter in parameters.items()})
    return {name: np.array(parameters[name].to_canonical(value), order="C") for name, value in values.items()}


FLATTENED = "H, W, C"
"""The order in which TensorFlow flattens maps."""


def _layers(graph: tf.Graph) -> list[str]:
    """The canonical names of the layers in the graph, in its order; their outputs are the tensors of these names."""
    (architecture,) = graph.get_collection(ARCHITECTURE)
    layers = {layer.name for layer in with_softmax(get_spec(architecture)).layers}
    return [operation.name for operation in graph.get_operations() if operation.name in layers]


def wiring(session: tf.Session) -> dict[str, list[str]]:
    """The layers that each layer depends on directly, by canonical name; `image` is one."""
    names = {name: name for name in _layers(session.graph)} | {"images": IMAGE}
    found: dict[str, list[str]] = {}
    for name in _layers(session.graph):
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


def structure(session: tf.Session) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """The shape of every layer's output for one image, (C, H, W), and of every parameter, by canonical name."""
    shapes = {}
    for name in _layers(session.graph):
        *spatial, channels = session.graph.get_tensor_by_name(f"{name}:0").shape[1:]
        shapes[name] = (channels, *spatial)
    return shapes, {name: parameter.canonical_shape for name, parameter in _parameters(session.graph).items()}


def record(
    session: tf.Session, image: np.ndarray, injected: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Run the graph and return every layer's output by canonical name, (N, C, H, W) or (N, features).

    `injected` replaces a layer's output for the layers behind it, after it has been recorded.
    """
    return dict(run(session, image, injected).layers)


def run(
    session: tf.Session,
    image: np.ndarray,
    injected: Mapping[str, np.ndarray] | None = None,
    unnamed: Unnamed = MappingProxyType({}),
) -> Recording:
    """As `record`, with what the graph returns, and what the layers in `unnamed` were given."""
    graph = session.graph
    tensors = {name: graph.get_tensor_by_name(f"{name}:0") for name in _layers(graph)}
    fed = {}
    fed["images:0"] = layouts.to_channels_last(image)
    returned = returned_by(graph)
    following = _following(graph) if unnamed else ()
    entering = {
        name: found[0] for name in tensors if name in unnamed and len(found := _entering(graph, name, following)) == 1
    }
    own, behind = tensors, _itself
    if injected:
        with graph.as_default():
            more = [*returned.values(), *entering.values()]
            own, behind = cut(graph, tensors, list(injected), named_variables(graph).values(), more)
        fed |= {behind(tensors[name]): layouts.to_channels_last(array) for name, array in injected.items()}
    fetched = [{name: behind(tensor) for name, tensor in some.items()} for some in (returned, entering)]
    outputs, answers, given = session.run([own, *fetched], fed)
    return Recording(
        {name: canonical_output(tensors[name], array) for name, array in outputs.items()},
        answers,
        given={name: canonical_output(tensor, given[name]) for name, tensor in entering.items()},
    )


def _itself(tensor: tf.Tensor) -> tf.Tensor:
    return tensor


def returned_by(graph: tf.Graph) -> dict[str, tf.Tensor]:
    """What the network that `build` made returns, by name."""
    collections = [name for name in graph.get_all_collection_keys() if str(name).startswith(f"{RETURNED}/")]
    return {name.partition("/")[2]: graph.get_collection(name)[0] for name in collections}


def unnamed_operations(session: tf.Session) -> dict[str, list[str]]:
    """See `common.recording.Unnamed`: operations as `mul (Mul)`."""
    graph = session.graph
    following = _following(graph)
    found = {name: _before(graph, _entering(graph, name, following), following) for name in _layers(graph)}
    found |= {
        name: _before(graph, tensor.op.inputs if tensor.name == "logits:0" else [tensor], following)
        for name, tensor in returned_by(graph).items()
    }
    return {name: operations for name, operations in found.items() if operations}


def _following(graph: tf.Graph) -> set[str]:
    """The operations whose results follow from the image's numbers, which constants, variables and shapes do not."""
    following = {"images"}
    for operation in graph.get_operations():  # in an order in which they can be computed
        if operation.type != "Shape" and any(tensor.op.name in following for tensor in operation.inputs):
            following.add(operation.name)
    return following


def _entering(graph: tf.Graph, layer: str, following: Collection[str]) -> list[tf.Tensor]:
    """The tensors that follow from the image and enter a layer: those that its own operations read, but do not make."""
    pending, entering = [graph.get_operation_by_name(layer)], {}
    while pending:
        for tensor in pending.pop().inputs:
            if tensor.op.name.startswith(f"{layer}/"):
                pending.append(tensor.op)
            elif tensor.op.name in following:
                entering[tensor.name] = tensor
    return list(entering.values())


def _before(graph: tf.Graph, tensors: Iterable[tf.Tensor], following: Collection[str]) -> list[str]:
    """The operations that lead to some tensors from the layers before them, or from the image."""
    names = {*_layers(graph), "images"}
    pending, found = list(tensors), {}
    while pending:
        operation = pending.pop().op
        if operation.name in following and operation.name not in names and operation.name not in found:
            found[operation.name] = f"{operation.name} ({operation.type})"
            pending += operation.inputs
    return list(reversed(found.values()))


def predict(session: tf.Session, image: np.ndarray) -> dict[str, np.ndarray]:
    """The logits as the graph is deployed, (N, classes) by the output's name: nothing else is fetched.

    TensorFlow's graph optimiser, grappler, then folds and fuses what it can.
    """
    (name, tensor), *_ = heads_of(session.graph).items()
    return {name: session.run(tensor, {"images:0": layouts.to_channels_last(image)})}


def predict_heads(session: tf.Session, image: np.ndarray) -> dict[str, np.ndarray]:
    """As `predict`, every output of a network that has auxiliary heads."""
    answers: dict[str, np.ndarray] = session.run(
        returned_by(session.graph), {"images:0": layouts.to_channels_last(image)}
    )
    return answers


def canonical_output(tensor: tf.Tensor, value: np.ndarray) -> np.ndarray:
    flattened = flattened_from(tensor)
    return layouts.flat_to_channels_first(value, flattened) if flattened else layouts.to_channels_first(value)


def on_device(session: tf.Session, device: str, precision: str) -> tf.Session:
    """A session as it is: TensorFlow places operations on the GPU by itself, if it sees one.

    Raises:
        Unavailable: `device` is `cuda`, and TensorFlow sees no GPU.
    """
    if device == "cuda" and not any(found.device_type == "GPU" for found in session.list_devices()):
        raise Unavailable("TensorFlow sees no GPU; install a CUDA build of it (see the README)")
    return session


def kernels() -> dict[str, str]:
    """What TensorFlow tells of the kernels that it uses: whether they are oneDNN's, and what XLA has compiled."""
    onednn = "on" if _pywrap_util_port.IsMklEnabled() else "off"
    return {"TensorFlow's oneDNN": onednn, **evidence.compiled_by_xla(), **evidence.threads()}


def release() -> None:
    """Give back the memory of sessions that nobody holds any more."""
    gc.collect()
