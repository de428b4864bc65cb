"""Weights in the canonical layout: read, written, checked.

Weights are a mapping from canonical parameter names (`conv1/weight`) to float32 arrays in the canonical layout (see
`common.layouts`). On disk they are a safetensors file with the same keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import TriptychError, nearest
from common.files import os_error_sentence, written_atomically
from common.operations import Shape
from common.operations.names import layer_of

Weights = Mapping[str, np.ndarray]


def weights_sha256(weights: Weights) -> str:
    """The SHA-256 of weights, in hexadecimal, over the parameters sorted by name. It does not depend on the file
    format.

    For each parameter: the line `name dtype shape` (`conv1/weight float32 96,3,11,11`), then its bytes, little-endian,
    in C order.
    """
    digest = sha256()
    for name, array in sorted(weights.items()):
        digest.update(f"{name} {array.dtype.name} {','.join(map(str, array.shape))}\n".encode())
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(little.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


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
    """Sort the metadata of a safetensors file, so that the same weights give the same bytes. Its writer does not sort.

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


def map_weights_file(path: Path) -> dict[str, np.ndarray]:
    """As `read_weights_file`, of a file that `write_weights_file` wrote and that nobody changes.

    The arrays are the file's own pages, and are copied where they are written to: VGG-11 is there in 1 ms, read in 1 s.
    """
    whole = np.asarray(np.memmap(path, np.uint8, "c"))
    start = 8 + int.from_bytes(whole[:8].tobytes(), "little")
    header = json.loads(whole[8:start].tobytes())
    del header["__metadata__"]
    arrays = {}
    for name, tensor in header.items():
        first, end = tensor["data_offsets"]
        arrays[name] = whole[start + first : start + end].view(np.float32).reshape(tensor["shape"])
    return arrays


def _translating_errors(what: str, action: Callable[[], Any]) -> Any:
    from safetensors import SafetensorError

    try:
        return action()
    except OSError as error:
        raise TriptychError(f"{what}: {os_error_sentence(error)}") from None
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise TriptychError(f"{what}: {error}") from None
