"""The files that a browser needs to run a network: graphs, weights, and the inputs and answers of the exact probe.

A graph holds no weights. It names their places in a safetensors file. So one graph serves any weights, and the browser
can read and hash the same file itself.

Run as a module, this answers requests in a process of its own, and imports frameworks there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import one_line
from common.files import folder_written_atomically
from common.onnx.options import ExportOptions
from common.onnx.webgpu import computed_wrongly_in_nhwc
from common.operations.preprocessing import Preprocessing
from common.operations.rounding import FP32, FP32_IN_WGSL
from common.porting.portable import exported, installed, opened, right_answers
from common.porting.preparation import known_preparation
from common.probes.exact import exact_probe
from common.probes.published import BATCH, SEED, published
from common.process import answering, requests
from common.specs import get_spec
from common.specs.architecture import IMAGE, Architecture
from common.specs.seeded import initial_weights
from common.weights import Weights, read_weights_file, write_weights_file

if TYPE_CHECKING:
    import onnx

NETWORK, LAYERS, WEIGHTS = "network.onnx", "layers.onnx", "weights.safetensors"
GIVEN, ROUNDING = "given.safetensors", "rounding.safetensors"

FILES = {
    "photo": ("photo.json", NETWORK, LAYERS, WEIGHTS),
    "exact": ("exact.json", LAYERS, WEIGHTS, GIVEN, ROUNDING),
}
"""The files for each purpose."""


def write_photo(
    spec: Architecture, weights: Weights, out: Path, *, origin: str, labels: Sequence[str] | None = None
) -> None:
    """Write the files that run a network on photographs: as it is deployed, and with every layer as an output.

    Args:
        spec: the network, with the preprocessing of these weights.
        weights: canonical.
        out: a folder, which must not exist.
        origin: the origin of the weights, in words.
        labels: a name for each class.

    Raises:
        TriptychError: no framework is installed, or the folder cannot be written.
    """
    with folder_written_atomically(out) as folder:
        write_weights_file(folder / WEIGHTS, weights)
        model, constants = exported(spec, weights, installed(), folder, ExportOptions(batch=1))
        places = _places(folder / WEIGHTS)
        _write(model, constants, weights, places, folder / NETWORK)
        layers = opened(model.graph, spec, {}, batch=1)
        _write(model, constants, weights, places, folder / LAYERS)
        told = {
            "network": spec.name,
            "origin": origin,
            "input": spec.input_shape,
            **asdict(spec.preprocessing),
            "labels": labels,
            "layers": [_told(spec, name) for name in layers],
            "nchw": computed_wrongly_in_nhwc(model.graph),
        }
        (folder / "photo.json").write_text(json.dumps(told), encoding="utf-8")


def write_exact(spec: Architecture, out: Path) -> None:
    """Write the exact probe: the inputs, their published hashes, and the bounds of layers that round.

    Args:
        spec: a network of the catalogue.
        out: a folder, which must not exist.

    Raises:
        TriptychError: no framework is installed, or the folder cannot be written.
    """
    with folder_written_atomically(out) as folder:
        probe = exact_probe(spec, seed=SEED, batch=BATCH)
        write_weights_file(folder / WEIGHTS, probe.weights)
        options = ExportOptions(tuple(spec.outputs), batch=BATCH)
        model, constants = exported(spec, probe.weights, installed(), folder, options)
        layers = opened(model.graph, spec, probe.injected)
        _write(model, constants, probe.weights, _places(folder / WEIGHTS), folder / LAYERS)
        given = {IMAGE: probe.image} | {f"{name}/injected": array for name, array in probe.injected.items()}
        write_weights_file(folder / GIVEN, given)
        rounding: dict[str, np.ndarray] = {}
        for device, precision in (("wasm", FP32), ("webgpu", FP32_IN_WGSL)):
            expected, allowed = right_answers(spec, probe, precision)
            rounding |= {f"{name}/{device}": array for name, array in allowed.items() if name in layers}
            rounding |= {name: expected[name] for name in allowed if name in layers}
        write_weights_file(folder / ROUNDING, rounding)
        told = {
            "network": spec.name,
            "layers": [_told(spec, name) for name in layers],
            "hashes": published()["networks"][spec.name],
            "version": published()["version"],
            "nchw": computed_wrongly_in_nhwc(model.graph),
        }
        (folder / "exact.json").write_text(json.dumps(told), encoding="utf-8")


def _told(spec: Architecture, name: str) -> dict[str, Any]:
    (layer,) = (layer for layer in spec.layers if layer.name == name)
    return {"name": name, "kind": layer.operation.kind, "shape": spec.shapes[name]}


def _places(path: Path) -> dict[str, tuple[int, int]]:
    """The offset and length of each array in a safetensors file, in bytes."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    places = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, end = entry["data_offsets"]
            places[name] = (8 + size + first, end - first)
    return places


def _write(
    model: onnx.ModelProto,
    constants: Mapping[str, np.ndarray],
    weights: Weights,
    places: Mapping[str, tuple[int, int]],
    path: Path,
) -> None:
    """Write a model whose weights are in the safetensors file beside it. Other constants stay in the model."""
    from onnx import TensorProto, numpy_helper

    del model.graph.initializer[:]
    for name, array in constants.items():
        if name not in weights:
            model.graph.initializer.append(numpy_helper.from_array(array, name))
            continue
        assert np.array_equal(array, weights[name]), f"{name} is exported as it is"
        tensor = model.graph.initializer.add(
            name=name, dims=array.shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL
        )
        offset, length = places[name]
        for key, value in (("location", WEIGHTS), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(model.SerializeToString())


def make(request: Mapping[str, Any]) -> None:
    """Write the files that a request asks for; see `Making`."""
    name, what, out = request["architecture"], request["what"], Path(request["out"])
    own = request["own"]
    if what == "exact":
        write_exact(get_spec(name), out)
    elif own is None:
        spec = get_spec(name)
        write_photo(
            spec, initial_weights(spec, SEED), out, origin=f"starting weights, seed {SEED}: it has learnt nothing"
        )
    else:
        said = own["preprocessing"] and Preprocessing.from_json(own["preprocessing"])
        recipe = known_preparation(said, own["origin"])
        spec = replace(get_spec(name, num_classes=own["num_classes"]), preprocessing=recipe)
        write_photo(spec, read_weights_file(own["weights"]), out, origin=own["origin"], labels=own["labels"])


def main() -> None:
    """Answer each request: with an empty answer when all files are written, or with the error."""
    answer = answering()
    for request in requests():
        try:
            make(request)
        except Exception as error:  # the frameworks' exceptions have no common base class
            answer({"error": one_line(error)})
        else:
            answer({})


if __name__ == "__main__":
    main()
