"""Build, load, read and record: what the project asks of every framework, here of Keras on any of its backends."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from keras.src.backend.common import dtypes

from common import layouts
from common.errors import Unavailable
from common.implementations.keras_initialisation import uninitialised
from common.operations import Shape
from common.operations.names import keras_layer, layer_of
from common.parity import evidence
from common.specs import get_spec
from common.specs.architecture import Architecture, with_softmax
from common.training.recipe import kernel_factors
from common.weights import Weights, check_weights
from keras_impl.catalogue import BUILDERS
from keras_impl.graph import (
    FLATTENED,
    calls_of,
    canonical_names,
    flattened_from,
    heads_of,
    named_outputs,
    unnamed_operations,
    wiring,
)
from keras_impl.layers import SubSampling
from keras_impl.recording import record, run

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
) -> keras.Model:
    """A functional model with Keras' own initialisation, but for what `kernel_factors` says: a training can start so.

    Args:
        architecture: a name that `common.list_architectures` gives.
        num_classes: the number of logits; the paper's where it is not given.
        image_size: (height, width) in pixels; the paper's where it is not given.
        softmax: whether it ends in probabilities, of a layer `softmax`, instead of logits; auxiliary heads do then too.

    Raises:
        TriptychError: the architecture is unknown or does not take these options.
    """
    spec = get_spec(architecture, num_classes=num_classes, image_size=image_size)
    options = {"num_classes": num_classes, "image_size": image_size}
    model = BUILDERS[spec.name](**{name: value for name, value in options.items() if value is not None})
    model = model if _has_graph(model) else _with_graph(model, spec.input_shape)
    variables = named_variables(model)
    for name, factor in kernel_factors(spec, variables).items():
        variables[name].assign(variables[name] * factor)
    return _with_softmax(model, spec) if softmax else model


def _has_graph(model: keras.Model) -> bool:
    return isinstance(model, keras.Sequential) or hasattr(model, "_nodes_by_depth")


def _with_graph(model: keras.Model, shape: Shape) -> keras.Model:
    """A subclassed model as a functional one of the same layers: calling it on a symbol says what it calls."""
    channels, height, width = shape
    image = layers.Input((height, width, channels), name="image")
    return keras.Model(image, model.call(image), name=model.name)


def _with_softmax(model: keras.Model, spec: Architecture) -> keras.Model:
    """The same layers, and a softmax after each output: a tensor, or a dict by name where there are heads."""
    heads = heads_of(model)
    outputs = {}
    for name, layer in with_softmax(spec).outputs.items():
        head = heads["logits" if name == "probabilities" else name]
        outputs[name] = layers.Softmax(name=keras_layer(layer))(head)
    return keras.Model(model.input, outputs if len(outputs) > 1 else outputs["probabilities"], name=model.name)


def build_float64(
    architecture: str, *, num_classes: int | None = None, image_size: tuple[int, int] | None = None
) -> keras.Model:
    """`build`, in float64, which it makes Keras' default in this process: optimisers and metrics follow it.

    That is not enough for Keras on JAX and on PyTorch: the result of a mean or a tanh of float64 is float32 there, by a
    table inside Keras from which no setting leads out. The entry for float64 is changed.
    """
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")  # which does not follow it if a layer was made before
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
    return build(architecture, num_classes=num_classes, image_size=image_size)


@dataclass(frozen=True)
class _Parameter:
    """A variable of the model and the way between its layout and the canonical one."""

    variable: keras.Variable
    to_keras: Callable[[np.ndarray], np.ndarray]
    to_canonical: Callable[[np.ndarray], np.ndarray]

    @property
    def canonical_shape(self) -> tuple[int, ...]:
        # The change of layout is applied to an array that takes no memory.
        return self.to_canonical(np.broadcast_to(np.float32(0), self.variable.shape)).shape


def _parameters(model: keras.Model) -> dict[str, _Parameter]:
    """Every parameter by canonical name."""
    names = canonical_names(model)
    parameters = {}
    for layer in model.layers:
        name = names[layer.name]
        if isinstance(layer, layers.Conv2D):
            parameters[f"{name}/weight"] = _Parameter(layer.kernel, layouts.conv_to_hwio, layouts.conv_from_hwio)
        elif isinstance(layer, layers.Dense):
            flattened = flattened_from(layer.input)
            parameters[f"{name}/weight"] = _Parameter(
                layer.kernel,
                partial(layouts.dense_to_io, flattened=flattened),
                partial(layouts.dense_from_io, flattened=flattened),
            )
        elif isinstance(layer, layers.BatchNormalization):
            statistics = {"mean": layer.moving_mean, "variance": layer.moving_variance}
            for kind, variable in {"gamma": layer.gamma, "beta": layer.beta, **statistics}.items():
                parameters[f"{name}/{kind}"] = _Parameter(variable, np.asarray, np.asarray)
        if isinstance(layer, SubSampling):
            for kind, variable in (("weight", layer.weight), ("bias", layer.bias)):
                parameters[f"{name}/{kind}"] = _Parameter(
                    variable, layouts.per_channel_to_hwc, layouts.per_channel_from_hwc
                )
        elif getattr(layer, "bias", None) is not None:
            parameters[f"{name}/bias"] = _Parameter(layer.bias, np.asarray, np.asarray)
    return parameters


def named_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Every parameter and stored statistic by canonical name, in Keras' layout."""
    return {name: parameter.variable for name, parameter in _parameters(model).items()}


def to_canonical(model: keras.Model, name: str, array: np.ndarray) -> np.ndarray:
    """An array of the shape of a parameter, such as its gradient, in the canonical layout."""
    return np.array(_parameters(model)[name].to_canonical(array), order="C")


def load_weights(model: keras.Model, weights: Weights, *, skip: Collection[str] = ()) -> None:
    """Copy canonical weights into the model, but for the layers in `skip`, which keep what they hold.

    Raises:
        TriptychError: the weights do not fit; nothing has been changed then.
    """
    parameters = _parameters(model)
    check_weights({name: parameter.canonical_shape for name, parameter in parameters.items()}, weights, skip=skip)
    for name, parameter in parameters.items():
        if layer_of(name) not in skip:
            parameter.variable.assign(layouts.apart_from(weights[name], parameter.to_keras(weights[name])))


def read_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """A copy of the model's weights, float32, in the canonical layout."""
    return {
        name: np.array(parameter.to_canonical(ops.convert_to_numpy(parameter.variable)), order="C")
        for name, parameter in _parameters(model).items()
    }


def structure(model: keras.Model) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """The shape of every layer's output for one image, (C, H, W), and of every parameter, by canonical name."""
    shapes = {}
    for call in calls_of(model):
        *spatial, channels = call.output.shape[1:]
        shapes[call.name] = (channels, *spatial)
    return shapes, {name: parameter.canonical_shape for name, parameter in _parameters(model).items()}


def predict(model: keras.Model, image: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs as the model is deployed, (N, classes) by name: nothing is recorded on the way.

    On JAX, Keras compiles the whole model with XLA for this; on TensorFlow too, but only where there is a GPU.
    """
    outputs = model.predict_on_batch(layouts.to_channels_last(image))
    return outputs if isinstance(outputs, dict) else dict.fromkeys(heads_of(model), outputs)


def predict_heads(model: keras.Model, image: np.ndarray) -> dict[str, np.ndarray]:
    """As `predict`, of a model that ends in logits: what it returns is called that, whatever it is."""
    return named_outputs(model.predict_on_batch(layouts.to_channels_last(image)))


def on_device(model: keras.Model, device: str, precision: str) -> keras.Model:
    """A model as it is: Keras' backends place variables on the GPU by themselves, if they see one.

    Raises:
        Unavailable: `device` is `cuda`, and the backend sees no GPU.
    """
    if device == "cuda" and not _sees_gpu():
        raise Unavailable(f"Keras on {keras.backend.backend()} sees no GPU; install a CUDA build (see the README)")
    if keras.backend.backend() == "torch":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.deterministic = True
    return model


def kernels() -> dict[str, str]:
    """What Keras' backend tells of the kernels that it uses, and on how many threads.

    What XLA may use in JAX is seen in the machine code of a small function.
    """
    if keras.backend.backend() == "torch":
        import torch

        return {"ATen": torch.backends.cpu.get_cpu_capability(), "threads": str(torch.get_num_threads())}
    if keras.backend.backend() == "jax":
        import jax

        compiled = jax.jit(_canary).lower(np.ones((3, 40), np.float32)).compile()
        features = set(re.findall(rb"\+([\w.]+)", compiled.runtime_executable().serialize()))
        widest = next((name for name in _INSTRUCTIONS if name.encode() in features), "unknown instructions")
        words = (f"of jaxlib {version('jaxlib')}", widest, *evidence.compiled_by_xla("_canary").values())
        return {"XLA": " ".join(words), **evidence.threads("tf_XLAEigen")}
    from tensorflow.python.util import _pywrap_util_port

    onednn = "on" if _pywrap_util_port.IsMklEnabled() else "off"
    return {"TensorFlow's oneDNN": onednn, **evidence.compiled_by_xla(), **evidence.threads()}


_INSTRUCTIONS = ("avx512f", "avx2", "avx", "sse4.2", "sve", "neon")
"""What LLVM calls them, the widest first."""


def _canary(x: Any) -> Any:
    return keras.ops.tanh(x) * 2 + x


def _sees_gpu() -> bool:
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available()
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "gpu"
    import tensorflow

    return bool(tensorflow.config.list_physical_devices("GPU"))


def release() -> None:
    """Give back the memory of models that nobody holds any more: Keras keeps what it has built until it is told."""
    keras.backend.clear_session()
    gc.collect()
