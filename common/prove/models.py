"""Reads the name of a model as the user gives it, and loads the model."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import TriptychError
from common.implementations import FRAMEWORKS

KINDS = (
    "FILE.onnx, FILE.keras, FILE.tflite after another model, FILE.py:NAME, package.module:NAME, torchvision:NAME, "
    "timm:NAME, keras.applications:NAME, "
    "torch_impl:ARCH, keras_impl:ARCH or tf1_style_impl:ARCH"
)
LIBRARIES = ("torchvision", "timm", "keras.applications", *(framework.package for framework in FRAMEWORKS.values()))


@dataclass(frozen=True)
class ModelName:
    """The name of a model: the part before the colon, and the part after it."""

    text: str
    home: str
    name: str

    @property
    def is_onnx(self) -> bool:
        return not self.name and self.home.endswith(".onnx")

    @property
    def is_tflite(self) -> bool:
        return not self.name and self.home.endswith(".tflite")

    @property
    def is_keras(self) -> bool:
        """Whether it is known to be a Keras model before it is loaded."""
        return self.home.endswith(".keras") or self.home in ("keras.applications", FRAMEWORKS["keras"].package)

    @property
    def is_session(self) -> bool:
        """Whether it is a graph of TensorFlow 1, of which only the export can be proved."""
        return self.home == FRAMEWORKS["tf1"].package

    @property
    def is_file(self) -> bool:
        return not self.name or self.home.endswith(".py")

    @property
    def is_library(self) -> bool:
        return self.home in LIBRARIES


def parse(text: str) -> ModelName:
    """Parse a MODEL of the command line.

    Raises:
        TriptychError: it is none of `KINDS`.
    """
    if text.endswith((".onnx", ".keras", ".tflite")):
        if not Path(text).is_file():
            raise TriptychError(f"there is no file {text}")
        return ModelName(text, text, "")
    home, _, name = text.rpartition(":")
    if not home or not name:
        raise TriptychError(f"{text!r} names no model; give {KINDS}")
    if home.endswith(".py") and not Path(home).is_file():
        raise TriptychError(f"there is no file {home}")
    return ModelName(text, home, name)


def load(model: ModelName, shape: Sequence[int] | None = None) -> Any:
    """The model itself. This runs the user's code or a library's, without downloading weights.

    Args:
        model: its name.
        shape: the shape of its input, for a library whose models are made for one shape.

    Raises:
        TriptychError: there is no such model.
    """
    if model.home == "torchvision":
        return _torchvision(model.name)
    if model.home == "timm":
        import_torchvision()  # which it imports
        return _imported("timm").create_model(model.name, pretrained=False)
    if model.home == "keras.applications":
        applications = _imported("keras").applications
        if not hasattr(applications, model.name):
            raise TriptychError(f"keras.applications has no model {model.name}")
        return getattr(applications, model.name)(weights=None, input_shape=tuple(shape[1:]) if shape else None)
    if model.home.endswith(".keras"):
        return _imported("keras").saving.load_model(model.home, compile=False)
    if model.home == "keras_impl" and shape:  # whose models are of one size
        return _imported(model.home).build(model.name, image_size=tuple(shape[1:3]))
    if model.is_library:
        return _imported(model.home).build(model.name)
    module = _module_of_file(Path(model.home)) if model.home.endswith(".py") else _imported(model.home)
    if not hasattr(module, model.name):
        raise TriptychError(f"{model.home} has no {model.name}")
    found = getattr(module, model.name)
    is_model = hasattr(found, "parameters") or hasattr(found, "layers")
    return found if is_model and not isinstance(found, type) else found()


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise TriptychError(f"there is no module {error.name}; install it, or check the name") from None


def _module_of_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def import_torchvision() -> None:
    """Import torchvision, even if its compiled operators do not fit the installed PyTorch. No model needs them.

    torchvision then declares fake kernels of them, which PyTorch refuses.
    """
    import torch

    try:
        _imported("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        register = torch.library.register_fake
        torch.library.register_fake = lambda *args, **kwargs: lambda kernel: kernel
        try:
            _imported("torchvision")
        finally:
            torch.library.register_fake = register


def _torchvision(name: str) -> Any:
    import_torchvision()
    models = importlib.import_module("torchvision.models")
    try:
        parameters = inspect.signature(models.get_model_builder(name)).parameters
    except ValueError as error:
        raise TriptychError(f"torchvision has no model {name}: {error}") from None
    options: dict[str, Any] = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    if "weights_backbone" in parameters:  # which it would download
        options["weights_backbone"] = None
    model = models.get_model(name, weights=None, **options)
    if getattr(model, "aux_logits", False):  # they are there in training only
        model.aux_logits = False
    return model
