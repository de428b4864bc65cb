"""Weights in the canonical layout: made from a seed, read, written, checked.

Weights are a mapping from canonical parameter names (`conv1/weight`) to float32 arrays in the canonical layout (see
`common.layouts`). On disk they are a safetensors file with the same keys.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Collection, Mapping
from hashlib import sha256
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import TriptychError
from common.files import os_error_sentence, written_atomically
from common.names import layer_of
from common.operations import Shape
from common.specs import get_spec, list_architectures, nearest
from common.specs.architecture import Architecture

Weights = Mapping[str, np.ndarray]


def seeded_generator(seed: int, name: str) -> np.random.Generator:
    """A generator that depends on a seed and a name only, so that tensors do not depend on each other's order."""
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))


def random_weights(
    name: str, seed: int = 0, *, num_classes: int | None = None, image_size: tuple[int, int] | None = None
) -> dict[str, np.ndarray]:
    """Seeded weights for an architecture, float32, in the canonical layout, keyed by canonical parameter name.

    Kernels are normal with variance 2 / fan-in (He et al. 2015, section 2.2), which keeps activations of one size
    through the depth; biases are normal with standard deviation 0.1, so that a missing bias shows, and so are beta and
    mean of a batch normalisation, gamma and variance around 1. In every fourth channel gamma is 2^8 and variance 2^16
    times smaller: their scale is of the same size, but there eps matters, as it does in trained networks.

    Raises:
        TriptychError: the architecture is unknown or does not take these options.
    """
    return initial_weights(get_spec(name, num_classes=num_classes, image_size=image_size), seed)


def initial_weights(spec: Architecture, seed: int) -> dict[str, np.ndarray]:
    """`random_weights` for a specification at hand."""
    return {name: _initial(name, shape, seeded_generator(seed, name)) for name, shape in spec.parameter_shapes.items()}


def _initial(name: str, shape: Shape, generator: np.random.Generator) -> np.ndarray:
    parameter = name.rpartition("/")[2]
    deviation = sqrt(2 / prod(shape[1:])) if parameter == "weight" else 0.1
    array = generator.standard_normal(shape, dtype=np.float32) * np.float32(deviation)
    if parameter in ("gamma", "variance"):
        array = np.abs(array + 1) if parameter == "variance" else array + 1
        array[::4] *= np.float32(2.0**-16 if parameter == "variance" else 2.0**-8)
    return array


def weights_sha256(weights: Weights) -> str:
    """What identifies weights, whatever file they are in: SHA-256 in hexadecimal, over the parameters sorted by name.

    Of each, the line `name dtype shape` (`conv1/weight float32 96,3,11,11`), then its bytes, little-endian, in C order.
    """
    digest = sha256()
    for name, array in sorted(weights.items()):
        digest.update(f"{name} {array.dtype.name} {','.join(map(str, array.shape))}\n".encode())
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(little.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def identify(weights: Weights, architecture: str | None = None) -> Architecture:
    """The network that weights belong to, with as many classes as they have.

    Args:
        weights: of a whole network, by canonical name.
        architecture: the one they are said to belong to; any of the catalogue if None.

    Raises:
        TriptychError: no network has these parameters, or several have, or the one that was named has others.
    """
    fitting = []
    for name in [architecture] if architecture else list_architectures():
        spec = get_spec(name)
        head = weights.get(f"{spec.outputs['logits']}/weight")
        if head is not None and head.ndim and len(head):
            spec = get_spec(name, num_classes=len(head))
        if {key: tuple(array.shape) for key, array in weights.items()} == spec.parameter_shapes:
            fitting.append(spec)
    if architecture and not fitting:
        check_weights(spec.parameter_shapes, weights)  # says what is wrong with them
    if not fitting:
        raise TriptychError("the weights belong to no network of the catalogue; `triptych show ARCH` lists its layers")
    if len(fitting) > 1:
        names = ", ".join(spec.name for spec in fitting)
        raise TriptychError(f"the weights fit {names}, which have the same parameters; name the architecture")
    return fitting[0]


def check_weights(expected: Mapping[str, Shape], weights: Weights, *, skip: Collection[str] = ()) -> None:
    """Refuse weights that do not fit, naming every problem at once.

    Args:
        expected: the shape of every parameter of the model, by canonical name.
        weights: what is to be loaded.
        skip: layers that keep their initialisation, whether `weights` has them or not.

    Raises:
        TriptychError: a layer to skip is unknown; a parameter is missing, unexpected, of the wrong shape or dtype, or
            holds NaN or infinity.
    """
    layers = {layer_of(name) for name in expected}
    problems = [
        f"skip names {layer}, which has no weights; {nearest(layer, layers)}" for layer in skip if layer not in layers
    ]
    for name, shape in expected.items():
        if layer_of(name) in skip:
            continue
        if name not in weights:
            problems.append(f"{name} is missing, expected shape {shape}")
        elif found := _unfit(weights[name], shape):
            problems.append(f"{name} {found}")
    problems += [
        f"{name} is unexpected; {nearest(name, expected)}"
        for name in weights
        if name not in expected and layer_of(name) not in skip
    ]
    if problems:
        raise TriptychError("the weights do not fit: " + "; ".join(problems))


def _unfit(array: np.ndarray, shape: Shape) -> str | None:
    if tuple(array.shape) != tuple(shape):
        return f"has shape {tuple(array.shape)}, expected {tuple(shape)}"
    if array.dtype != np.float32:
        return f"has dtype {array.dtype}, expected float32"
    if not np.isfinite(array).all():
        return f"holds {np.count_nonzero(~np.isfinite(array))} values that are NaN or infinite"
    return None


def write_weights_file(path: str | Path, weights: Weights, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write weights as safetensors, whole or not at all.

    Args:
        path: where to; an existing file is replaced.
        weights: canonical names to arrays.
        metadata: strings to keep beside them, such as the architecture.

    Raises:
        TriptychError: the file cannot be written.
    """
    from safetensors.numpy import save_file

    def write(temporary: Path) -> None:
        arrays = {name: np.ascontiguousarray(array) for name, array in weights.items()}
        save_file(arrays, temporary, metadata=dict(metadata or {}) | {"format": "triptych"})
        _sort_metadata(temporary)

    with written_atomically(path) as temporary:
        _translating_errors(f"cannot write {path}", lambda: write(temporary))


def _sort_metadata(path: Path) -> None:
    """Put a safetensors file's metadata in order, which its writer does not: the same weights shall be the same bytes.

    The file begins with the size of its header, 8 bytes, little-endian; the header is JSON, and may end in spaces.
    """
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(ordered) <= size:
            file.seek(8)
            file.write(ordered.ljust(size))


def read_weights_file(path: str | Path) -> dict[str, np.ndarray]:
    """Read a safetensors file, keyed as it is in the file.

    Raises:
        TriptychError: there is no such file, it cannot be read, or it is not a whole safetensors file.
    """
    from safetensors.numpy import load_file

    if not Path(path).is_file():
        raise TriptychError(f"there is no weights file {path}; give the path of a .safetensors file")
    return _translating_errors(f"cannot read {path} as safetensors", lambda: load_file(path))


def read_metadata(path: str | Path) -> dict[str, str]:
    """What a safetensors file says of itself, such as `architecture` and `preprocessing`; nothing of it is checked.

    Raises:
        TriptychError: there is no such file, or it is not a whole safetensors file.
    """
    from safetensors import safe_open

    def read() -> dict[str, str]:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}

    return _translating_errors(f"cannot read {path} as safetensors", read)


def _translating_errors(what: str, action: Callable[[], Any]) -> Any:
    from safetensors import SafetensorError

    try:
        return action()
    except OSError as error:
        raise TriptychError(f"{what}: {os_error_sentence(error)}") from None
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise TriptychError(f"{what}: {error}") from None
