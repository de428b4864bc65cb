"""The backends that can be compared: which implementation, through which runtime, and what has to be installed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from importlib.util import find_spec

from common.errors import TriptychError
from common.specs import nearest


@dataclass(frozen=True)
class Backend:
    """One way to run a network."""

    name: str
    implementation: str
    """The package with `build`, `load_weights`, `export_onnx` and `backend.record`."""
    modules: tuple[str, ...]
    """What it imports."""
    extra: str
    """The extra of the distribution that installs it."""
    through_onnx: bool = False
    """Whether the implementation's export is run by ONNX Runtime instead of the model itself."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables for its process."""

    @property
    def missing(self) -> tuple[str, ...]:
        """The modules that are not installed."""
        return tuple(module for module in self.modules if find_spec(module) is None)

    @property
    def how_to_install(self) -> str:
        return f"{' and '.join(self.missing)} not installed; pip install -c constraints.txt -e '.[{self.extra}]'"


_KERAS_TENSORFLOW = {"KERAS_BACKEND": "tensorflow"}
_ONNX = ("onnx", "onnxruntime")

BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend("torch", "torch_impl", ("torch",), "torch"),
        Backend("keras-tensorflow", "keras_impl", ("keras", "tensorflow"), "keras", environment=_KERAS_TENSORFLOW),
        Backend("tf1", "tf1_style_impl", ("tensorflow",), "tf1"),
        Backend("onnx-torch", "torch_impl", ("torch", *_ONNX), "torch,onnx", through_onnx=True),
        Backend(
            "onnx-keras",
            "keras_impl",
            ("keras", "tensorflow", *_ONNX),
            "keras,onnx",
            through_onnx=True,
            environment=_KERAS_TENSORFLOW,
        ),
        Backend("onnx-tf1", "tf1_style_impl", ("tensorflow", *_ONNX), "tf1,onnx", through_onnx=True),
    )
}


def select(names: list[str] | None) -> list[Backend]:
    """The backends of these names, or all of them.

    Raises:
        TriptychError: a name is unknown.
    """
    for name in names or ():
        if name not in BACKENDS:
            raise TriptychError(f"there is no backend {name!r}; {nearest(name, BACKENDS)}")
    return [backend for backend in BACKENDS.values() if not names or backend.name in names]


def process_environment(backend: Backend) -> dict[str, str]:
    """The environment of a backend's process: the user's own, with the frameworks' chatter turned down."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "ERROR", "PYTHONUNBUFFERED": "1"}
    return {**quiet, **os.environ, **backend.environment}
