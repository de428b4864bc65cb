"""Writing weights for a framework, through that framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from common.errors import TriptychError, argument, nearest
from common.implementations import FRAMEWORKS, import_implementation
from common.operations.names import keras_layer, layer_of
from common.porting.conventions import CONVENTIONS
from common.porting.matching import Network
from common.specs.architecture import Architecture
from common.weights import write_weights_file

SUFFIXES = {"keras": (".keras", ".weights.h5"), "onnx": (".onnx",)}
"""The suffixes that a framework accepts, if it looks at the name of a file."""


@dataclass(frozen=True)
class Target:
    """What to write: `safetensors`, `torch`, `keras`, `tf1` or `onnx`."""

    kind: str
    path: Path
    names: str | None = None
    """Whose names a state dict has; canonical names if None."""

    @property
    def framework(self) -> str:
        """The framework that writes and runs it: its own, or the first that is installed.

        Raises:
            TriptychError: there is none.
        """
        candidates = [self.kind] if self.kind in FRAMEWORKS else list(FRAMEWORKS)
        for name in candidates:
            if find_spec(FRAMEWORKS[name].module):
                return name
        missing = " or ".join(FRAMEWORKS[name].module for name in candidates)
        raise TriptychError(
            f"{self.kind} needs {missing}, not installed; pip install -c constraints.txt -e '.[{candidates[0]}]'"
        )

    def spelled(self, spec: Architecture) -> dict[str, str]:
        """The target's name of each canonical parameter."""
        if self.kind == "torch":
            return CONVENTIONS[self.names or "torch"].names(spec)
        if self.kind == "keras":
            return {name: f"{keras_layer(layer_of(name))}/{name.rpartition('/')[2]}" for name in spec.parameter_shapes}
        return {name: name for name in spec.parameter_shapes}


def check_target(target: Target, spec: Architecture) -> None:
    """Refuse a target that cannot be written, before anything is read in full.

    Raises:
        TriptychError: the name of the file is not one that the framework takes; the framework is not installed; or the
            network has no names of that kind.
    """
    suffixes = SUFFIXES.get(target.kind)
    if suffixes and not target.path.name.endswith(suffixes):
        raise TriptychError(
            f"{target.kind} needs a file whose name ends in {' or '.join(suffixes)}, not {target.path.name}"
        )
    if target.names is not None:
        if target.kind != "torch" or target.names != "torchvision":
            raise TriptychError(
                f"{argument('names', target.names)} is for {argument('kind', 'torch')}, and can only be torchvision"
            )
        published = CONVENTIONS["torchvision"].architectures
        if spec.name not in published:
            raise TriptychError(f"torchvision has no {spec.name}; {nearest(spec.name, published)}")
    if target.kind != "safetensors":
        _ = target.framework
    if target.kind == "onnx" and not find_spec("onnx"):
        raise TriptychError("onnx is not installed; pip install -c constraints.txt -e '.[onnx]'")


def write_target(network: Network, target: Target, metadata: Mapping[str, str]) -> None:
    """Write the network's weights.

    Raises:
        TriptychError: the framework is not installed, or the file cannot be written.
    """
    if target.kind == "safetensors":
        write_weights_file(target.path, network.weights, metadata=metadata)
        return
    implementation = import_implementation(target.framework)
    model = implementation.build(network.spec.name, num_classes=network.spec.num_classes)
    implementation.load_weights(model, network.weights)
    if target.kind == "onnx":
        _export(implementation, model, network, target.path, metadata)
        return
    options: dict[str, Any] = {"names": target.spelled(network.spec)} if target.names else {}
    try:
        implementation.save_weights(model, target.path, metadata=metadata, **options)
    except (OSError, TriptychError):
        raise
    except Exception as error:  # each framework raises what it likes
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise TriptychError(f"cannot write {target.path.name} with {target.framework}: {reason}") from None


def _export(implementation: ModuleType, model: Any, network: Network, path: Path, metadata: Mapping[str, str]) -> None:
    import onnx

    from common.onnx.options import ExportOptions

    outputs = tuple(network.spec.outputs)
    recipe = network.preprocessing
    implementation.export_onnx(model, path, ExportOptions(outputs, preprocessing=recipe, prepared=recipe is not None))
    said = {
        key: text for key, text in metadata.items() if key not in ("architecture", "preprocessing", "weights_sha256")
    }
    # A protobuf message is the concatenation of its fields, so more of them can be appended to the file.
    with path.open("ab") as file:
        entries = [onnx.StringStringEntryProto(key=key, value=text) for key, text in said.items()]
        file.write(onnx.ModelProto(metadata_props=entries).SerializeToString())
