"""Every value of one run of a Keras model.

Keras has no hooks, so the model's graph is walked here as `keras.Model` walks it: each operation is called on the
outputs before it. On JAX the walk as a whole is compiled, once for a model: operation by operation, XLA compiles some
hundred programs, which takes four times as long for DenseNet-121.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import keras
import numpy as np
from keras import layers, ops

from common import layouts
from common.parity.cudnn import direct_sums
from common.specs.recording import Recording, Unnamed
from keras_impl.graph import canonical_output, graph_of, named_nodes, outputs_of


def record(
    model: keras.Model,
    image: np.ndarray,
    injected: Mapping[str, np.ndarray] | None = None,
    *,
    training: bool = False,
) -> dict[str, np.ndarray]:
    """Run the model and return every layer's output by canonical name, (N, C, H, W) or (N, features).

    A layer's own output is recorded; the layers after it read what `injected` has in its place.
    """
    return dict(run(model, image, injected, training=training).layers)


@direct_sums()
def run(
    model: keras.Model,
    image: np.ndarray,
    injected: Mapping[str, np.ndarray] | None = None,
    unnamed: Unnamed = MappingProxyType({}),
    *,
    training: bool = False,
) -> Recording:
    """As `record`, with what the model returns, and what the layers in `unnamed` were given."""
    walk = _walk_compiled if not training and _on_a_cpu_with_jax() else partial(_walk, training=training)
    put = {name: _native(array) for name, array in (injected or {}).items()}
    found = walk(model, _native(image), put, unnamed=unnamed)
    nodes = {name: node for node, name in named_nodes(model)}
    return Recording(
        {name: canonical_output(nodes[name].outputs[0], _numpy(value)) for name, value in found.layers.items()},
        {name: _numpy(value) for name, value in found.returned.items()},
        given={name: canonical_output(nodes[name].input_tensors[0], _numpy(v)) for name, v in found.given.items()},
    )


_numpy = ops.convert_to_numpy


def _native(array: np.ndarray) -> Any:
    return ops.convert_to_tensor(layouts.to_channels_last(array))


class _Values(NamedTuple):
    """As in `Recording`, tensors of Keras' backend in its layout."""

    layers: dict[str, Any]
    returned: dict[str, Any]
    given: dict[str, Any]


def _walk(
    model: keras.Model,
    image: Any,
    injected: Mapping[str, Any],
    *,
    unnamed: Collection[str],
    training: bool = False,
    set_down: Callable[[Any], Any] = lambda value: value,
) -> _Values:
    """Call each operation. What `set_down` makes of its output is recorded, and read by the next."""
    values = {id(graph_of(model).inputs[0]): image}
    recorded, given = {}, {}
    for node, name in named_nodes(model):
        operation = node.operation
        arguments, options = node.arguments.fill_in(values)
        if training and getattr(operation, "_call_has_training_arg", False):
            options["training"] = True
        if name in unnamed and len(node.input_tensors) == 1:
            given[name] = values[id(node.input_tensors[0])]
        output = set_down(operation(*arguments, **options))
        if isinstance(operation, layers.Layer):
            recorded[name] = output
        output = injected.get(name, output)
        values |= {id(made): value for made, value in zip(node.outputs, keras.tree.flatten(output), strict=True)}
    returned = {name: values[id(tensor)] for name, tensor in outputs_of(model).items()}
    return _Values(recorded, returned, given)


def _on_a_cpu_with_jax() -> bool:
    if keras.backend.backend() != "jax":
        return False
    import jax

    return jax.default_backend() == "cpu"


BARRIERS_TAKEN_AWAY_BY = "cse_barrier_expander"
"""A pass of XLA, before operations are fused."""

_PROGRAMS: WeakKeyDictionary[keras.Model, dict[Any, Callable[..., _Values] | None]] = WeakKeyDictionary()
"""For each model, by what its walk is given: a function of variables' values, image and injected values. A layer that
is changed after that, otherwise than in its variables, is not seen."""


def _walk_compiled(model: keras.Model, image: Any, injected: Mapping[str, Any], *, unnamed: Collection[str]) -> _Values:
    """As `_walk`, on JAX on a CPU."""
    walk = partial(_walk, model, unnamed=unnamed)
    programs, key = _PROGRAMS.setdefault(model, {}), (image.shape, tuple(injected), tuple(unnamed))
    if key not in programs:
        programs[key] = _compile(walk, model.variables, image, injected)
    program = programs[key]
    return program([v.value for v in model.variables], image, injected) if program else walk(image, injected)


def _compile(
    walk: Callable[..., _Values], variables: Sequence[keras.Variable], image: Any, injected: Mapping[str, Any]
) -> Callable[..., _Values] | None:
    """A walk compiled as a whole, in which each operation's output is written to memory and read from there.

    By itself XLA computes a value again where it is read, by other instructions: a ReLU adds the bias of the
    convolution before it once more. Then what is recorded is not what the next layer was given. A barrier behind each
    operation forbids that as long as it stands. So the pass that takes barriers away is switched off, and the barriers
    that are left in the end are counted. If any is missing, or no machine code can be made of them, as may be in
    another version of JAX, there is no program.
    """
    import jax

    def run(values: Sequence[Any], image: Any, injected: Mapping[str, Any]) -> _Values:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return walk(image, injected, set_down=jax.lax.optimization_barrier)

    lowered = jax.jit(run).lower([variable.value for variable in variables], image, injected)
    barriers = lowered.as_text().count("stablehlo.optimization_barrier")
    try:
        compiled = lowered.compile(compiler_options={"xla_disable_hlo_passes": BARRIERS_TAKEN_AWAY_BY})
    except jax.errors.JaxRuntimeError:
        return None
    return compiled if compiled.as_text().count(" opt-barrier(") == barriers else None
