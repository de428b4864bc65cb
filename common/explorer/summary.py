"""Each framework's own summary of a network, as its users know it."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from common.implementations import import_implementation, standard_error_kept_unless_it_fails
from common.operations.names import torch_layer
from common.specs.architecture import shape_text


def summarise(framework: str, architecture: str) -> str:
    """Build the network and let the framework describe it, with the shape of each output.

    Keras: `Model.summary`. PyTorch: the module's own text. TensorFlow 1: the layers' tensors in the graph, and its
    profiler's parameters by scope.

    Args:
        framework: `keras`, `torch` or `tf1`.
        architecture: a name that `common.list_architectures` gives.
    """
    package = import_implementation(framework)
    return DESCRIPTIONS[framework](package, package.build(architecture))


def _keras(package: ModuleType, model: Any) -> str:
    lines: list[str] = []
    model.summary(line_length=110, print_fn=lines.append)
    return "\n".join(lines)


def _torch(package: ModuleType, model: Any) -> str:
    """`Conv2d(1, 20, kernel_size=(5, 5), stride=(1, 1) → 20×32×32)`: PyTorch leaves a place for what a module adds."""
    shapes, _ = package.backend.structure(model)
    for name, shape in shapes.items():
        module = model.get_submodule(torch_layer(name))
        module.extra_repr = partial(str, f"{module.extra_repr()} → {shape_text(shape)}".lstrip())
    return str(model)


def _tf1(package: ModuleType, session: Any) -> str:
    tf = importlib.import_module("tensorflow.compat.v1")
    shapes, _ = package.backend.structure(session)
    tensors = [session.graph.get_tensor_by_name(f"{layer}:0") for layer in shapes]
    rows = [("tensor", "operation", "shape")] + [
        (tensor.name, tensor.op.type, shape_text(["?", *tensor.shape[1:]])) for tensor in tensors
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    tf.logging.set_verbosity(tf.logging.ERROR)
    parameters = tf.profiler.ProfileOptionBuilder.trainable_variables_parameter()
    with tempfile.TemporaryDirectory(prefix="triptych-") as folder, standard_error_kept_unless_it_fails():
        path = Path(folder) / "profile"
        options = tf.profiler.ProfileOptionBuilder(parameters).with_file_output(str(path)).build()
        tf.profiler.profile(session.graph, cmd="scope", options=options)
        profile = path.read_text(encoding="utf-8").partition("Profile:\n")[2]
    return f"{table}\n\n{profile}"


DESCRIPTIONS: dict[str, Callable[[ModuleType, Any], str]] = {"keras": _keras, "torch": _torch, "tf1": _tf1}
"""How each framework describes a model of its implementation."""
