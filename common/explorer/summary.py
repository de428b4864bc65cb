"""Each framework's own summary of a network: the one that its users know."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.frameworks import import_implementation


def summarise(framework: str, architecture: str) -> str:
    """Build the network and have the framework describe it.

    Keras: `Model.summary`. PyTorch: the module's own text. TensorFlow 1: its profiler, by scope.

    Args:
        framework: `keras`, `torch` or `tf1`.
        architecture: a name that `common.list_architectures` gives.
    """
    return DESCRIPTIONS[framework](import_implementation(framework).build(architecture))


def _keras(model: Any) -> str:
    lines: list[str] = []
    model.summary(line_length=110, print_fn=lines.append)
    return "\n".join(lines)


def _tf1(session: Any) -> str:
    tf = importlib.import_module("tensorflow.compat.v1")
    tf.logging.set_verbosity(tf.logging.ERROR)
    parameters = tf.profiler.ProfileOptionBuilder.trainable_variables_parameter()
    with tempfile.TemporaryDirectory(prefix="triptych-") as folder:
        path = Path(folder) / "profile"
        options = tf.profiler.ProfileOptionBuilder(parameters).with_file_output(str(path)).build()
        tf.profiler.profile(session.graph, cmd="scope", options=options)
        profile: str = path.read_text(encoding="utf-8").partition("Profile:\n")[2]
        return profile


DESCRIPTIONS: dict[str, Callable[[Any], str]] = {"keras": _keras, "torch": str, "tf1": _tf1}
"""How each framework describes a model."""
