"""Build, load, read and record: what the project asks of every framework, here of TensorFlow 1's graph and session.

A model is a `Session`. Its graph has the placeholders `images:0` (N, H, W, C) and `keep_prob:0` (1.0 unless fed), the
output `logits:0`, and for every layer a tensor of the layer's name, such as `conv1:0`. Auxiliary heads are the tensors
of their last layers, `aux1/classifier:0` and `aux2/classifier:0`: computed where they are fetched, and only there.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.util import _pywrap_util_port

from common import layouts
from common.errors import Unavailable
from common.operations import Shape
from common.operations.names import PARAMETERS, layer_of
from common.parity import evidence
from common.specs import get_spec
from common.specs.architecture import Architecture, softmax_layer
from common.specs.recording import Recording, Unnamed
from common.training.recipe import kernel_factors
from common.weights import Weights, check_weights
from tf1_style_impl.catalogue import BUILDERS
from tf1_style_impl.cut import cut
from tf1_style_impl.graph import (
    ARCHITECTURE,
    FLATTENED,
    RETURNED,
    canonical_output,
    flattened_from,
    following_image,
    heads_of,
    layers_of,
    returned_by,
    tensors_entering,
    unnamed_operations,
    wiring,
)

__all__ = [
    "FLATTENED",
    "build",
    "build_float64",
    "kernels",
    "load_weights",
    "named_variables",
    "on_device",
    "predict",
    "predict_heads",
    "read_weights",
    "record",
    "release",
    "run",
    "structure",
    "to_canonical",
    "uninitialised",
    "unnamed_operations",
    "wiring",
]


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
        if not _UNINITIALISED.get():
            _initialise(session, spec)
    return session


_UNINITIALISED = ContextVar("uninitialised", default=False)


@contextmanager
def uninitialised() -> Iterator[None]:
    """Variables of the sessions that are built in here have no values: for whoever loads all weights next."""
    before = _UNINITIALISED.set(True)
    try:
        yield
    finally:
        _UNINITIALISED.reset(before)


def _initialise(session: tf.Session, spec: Architecture) -> None:
    """Set the variables by their initialisers, but for what `kernel_factors` says."""
    session.run(tf.global_variables_initializer())
    variables = named_variables(session.graph)
    factors = kernel_factors(spec, variables)
    values = session.run({name: variables[name] for name in factors})
    _set(session, [(variables[name], factor * values[name]) for name, factor in factors.items()])


def _set(session: tf.Session, values: Sequence[tuple[tf.Variable, np.ndarray]]) -> None:
    """Assign to variables; feeding the initialisers' inputs keeps the values out of the graph."""
    feed = {variable.initializer.inputs[1]: array for variable, array in values}
    session.run([variable.initializer for variable, _ in values], feed)


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
    values = [
        (parameter.variable, layouts.apart_from(weights[name], parameter.to_tf(weights[name])))
        for name, parameter in loaded.items()
    ]
    _set(session, values)


def read_weights(session: tf.Session) -> dict[str, np.ndarray]:
    """A copy of the session's variables, float32, in the canonical layout."""
    parameters = _parameters(session.graph)
    values = session.run({name: parameter.variable for name, parameter in parameters.items()})
    return {name: np.array(parameters[name].to_canonical(value), order="C") for name, value in values.items()}


def structure(session: tf.Session) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """The shape of every layer's output for one image, (C, H, W), and of every parameter, by canonical name."""
    shapes = {}
    for name in layers_of(session.graph):
        *spatial, channels = session.graph.get_tensor_by_name(f"{name}:0").shape[1:]
        shapes[name] = (channels, *spatial)
    return shapes, {name: parameter.canonical_shape for name, parameter in _parameters(session.graph).items()}


def record(
    session: tf.Session, image: np.ndarray, injected: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Run the graph and return every layer's output by canonical name, (N, C, H, W) or (N, features).

    A layer's own output is recorded; the layers after it read what `injected` has in its place.
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
    tensors = {name: graph.get_tensor_by_name(f"{name}:0") for name in layers_of(graph)}
    fed = {}
    fed["images:0"] = layouts.to_channels_last(image)
    returned = returned_by(graph)
    following = following_image(graph) if unnamed else ()
    entering = {
        name: found[0]
        for name in tensors
        if name in unnamed and len(found := tensors_entering(graph, name, following)) == 1
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
