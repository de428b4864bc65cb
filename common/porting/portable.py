"""The exact probe as a folder, for a runtime that this project does not reach.

The folder has an ONNX file in which every layer's output is an output and every injected value is an input. It also has
the inputs, the right outputs, the bounds of layers that round, the hashes of all these, and a page that says how to
compare.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import TriptychError
from common.files import folder_written_atomically, os_error_sentence, require_space
from common.implementations import FRAMEWORKS, import_implementation
from common.onnx.files import write_onnx
from common.onnx.options import ExportOptions
from common.operations import evaluate
from common.operations.names import parameters_of
from common.operations.rounding import FP32, Precision
from common.probes.exact import VERSION, exact_probe
from common.probes.probe import Probe
from common.probes.published import BATCH, SEED, compare, describe
from common.specs.architecture import IMAGE, Architecture
from common.weights import Weights

if TYPE_CHECKING:
    import onnx

MODEL, GIVEN, EXPECTED, ALLOWED, HASHES, PAGE = (
    "probe.onnx",
    "given.npz",
    "expected.npz",
    "allowed.npz",
    "hashes.json",
    "README.md",
)


def write_probe(spec: Architecture, out: Path, framework: str | None = None) -> dict[str, Any]:
    """Write the exact probe of a network into a new folder, whole or not at all.

    Args:
        spec: a network of the catalogue.
        out: the folder, which must not exist.
        framework: the framework whose model is exported; the first that is installed if None.

    Returns:
        What was written: `architecture`, `out`, `source`, `version`, `sha256`, `published`, `layers`, `bytes`.

    Raises:
        TriptychError: the folder exists or cannot be written, or no framework or no ONNX is installed.
    """
    source = installed(framework)
    if out.exists() or out.is_symlink():
        raise TriptychError(f"{out} exists already; name a new folder")
    with folder_written_atomically(out) as folder:
        probe = exact_probe(spec, seed=SEED, batch=BATCH)
        values = [*probe.injected.values(), *probe.expected.values(), probe.image]
        require_space(folder, sum(2 * array.nbytes for array in (*probe.weights.values(), *values)) + (1 << 20))
        expected, allowed = right_answers(spec, probe)
        try:
            layers = _write_model(spec, probe, source, folder)
            given = {IMAGE: probe.image} | {f"{name}/injected": array for name, array in probe.injected.items()}
            for name, arrays in ((GIVEN, given), (EXPECTED, expected), (ALLOWED, allowed)):
                kept = arrays if arrays is given else {key: arrays[key] for key in layers if key in arrays}
                np.savez(folder / name, **kept)  # type: ignore[arg-type]
            numbers = {"architecture": spec.name, "version": VERSION, **describe(spec, probe)}
            (folder / HASHES).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
            (folder / PAGE).write_text(_page(spec, numbers["sha256"]), encoding="utf-8")
        except OSError as error:
            raise TriptychError(f"cannot write {out}: {os_error_sentence(error)}") from None
        size = sum(file.stat().st_size for file in folder.iterdir())
    return {
        "architecture": spec.name,
        "out": str(out),
        "source": source,
        "version": VERSION,
        "sha256": numbers["sha256"],
        "published": compare(spec, probe, SEED).same,
        "layers": len(layers),
        "bytes": size,
    }


def installed(framework: str | None = None) -> str:
    """The framework to export from: the one that is named, or the first that is installed.

    Raises:
        TriptychError: it is not installed, or none is.
    """
    if find_spec("onnx") is None:
        raise TriptychError("onnx not installed; pip install -c constraints.txt -e '.[onnx]'")
    wanted = [framework] if framework else list(FRAMEWORKS)
    found = next((name for name in wanted if find_spec(FRAMEWORKS[name].module) is not None), None)
    if found is None:
        what = " or ".join(FRAMEWORKS[name].module for name in wanted)
        raise TriptychError(f"{what} not installed; pip install -c constraints.txt -e '.[{wanted[0]}]'")
    return found


def right_answers(
    spec: Architecture, probe: Probe, precision: Precision = FP32
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Every layer's right output, float32, and the bound of its error for layers that round.

    The inputs of each layer are known: they are injected or exact. So the value of a layer that rounds is known, too;
    rounding it to float32 adds to its bound.
    """
    expected, allowed = dict(probe.expected), {}
    values = {IMAGE: probe.image} | probe.expected | probe.injected
    for layer in spec.layers:
        if layer.name in probe.bounded:
            inputs = [values[name] for name in layer.inputs]
            parameters = parameters_of(layer.name, probe.weights)
            reference = evaluate(layer.operation, inputs, parameters)
            reference = layer.operation.at_precision(reference, precision, inputs, parameters)
            assert reference.bound is not None
            expected[layer.name] = value = reference.value.astype(np.float32)
            bound = reference.bound + np.abs(value - reference.value)
            allowed[layer.name] = np.nextafter(bound.astype(np.float32), np.float32(np.inf))
    return expected, allowed


def _write_model(spec: Architecture, probe: Probe, source: str, folder: Path) -> list[str]:
    """Export the network with the probe's weights, open at every layer; return its layers."""
    options = ExportOptions(tuple(spec.outputs), batch=BATCH)
    model, initializers = exported(spec, probe.weights, source, folder, options)
    layers = opened(model.graph, spec, probe.injected)
    write_onnx(model, initializers, folder / MODEL)
    return layers


def exported(
    spec: Architecture, weights: Weights, source: str, folder: Path, options: ExportOptions
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A framework's export of a network: the graph without its initializers, and the initializers.

    Args:
        spec: the network.
        weights: canonical.
        source: the framework.
        folder: on a disk that has room for the export, which is removed.
        options: of the export.
    """
    import onnx
    from onnx import numpy_helper

    implementation = import_implementation(source)
    network = implementation.build(spec.name, num_classes=spec.num_classes)
    implementation.load_weights(network, weights)
    with tempfile.TemporaryDirectory(dir=folder) as beside:
        closed = Path(beside) / MODEL
        implementation.export_onnx(network, closed, options)
        model = onnx.load(closed)
    initializers = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    del model.graph.initializer[:]
    return model, initializers


def opened(
    graph: onnx.GraphProto, spec: Architecture, injected: Mapping[str, np.ndarray], batch: int = BATCH
) -> list[str]:
    """For every layer, add its value as an output under the layer's name, and an input that its readers read instead.

    Returns:
        The layers that the graph has.
    """
    from onnx import TensorProto, helper

    names = {node.output[0]: node.name for node in graph.node if node.name in spec.shapes}
    inlets = {value: f"{name}/injected" for value, name in names.items() if name in injected}
    for node in graph.node:
        node.input[:] = [inlets.get(value, names.get(value, value)) for value in node.input]
        node.output[:] = [names.get(value, value) for value in node.output]
    del graph.output[:]
    del graph.value_info[:]

    def tensor(name: str, layer: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *spec.shapes[layer]])

    graph.output.extend(tensor(name, name) for name in names.values())
    graph.input.extend(tensor(inlets[value], name) for value, name in names.items() if value in inlets)
    return list(names.values())


def _page(spec: Architecture, number: str) -> str:
    shape = " × ".join(map(str, (BATCH, *spec.input_shape)))
    return f"""# The exact probe of {spec.name}

Version {VERSION}, SHA-256 `{number}`.

Weights and inputs are small integers, chosen so that float32 arithmetic makes no rounding error, whatever the order of
summation. So there is one right answer for every layer, to the bit, on every machine; a wrong weight, stride, padding
or order changes it, in the layer where the mistake is.

- `{MODEL}`: the network with the probe's weights. Its inputs are `image` ({shape}) and, for some layers,
  `LAYER/injected`, which takes the place of that layer's output for the layers that read it, so that every layer has
  integers before it. Its outputs are those of every layer, by the layer's name, from before they are replaced.
- `{GIVEN}`: what to give to each input, float32, (N, C, H, W) or (N, features).
- `{EXPECTED}`: what each output must be. Layers that are in `{ALLOWED}` too round; the difference may be as large as it
  says there, element by element. All others must be equal, where 0 and −0 are.
- `{HASHES}`: SHA-256 of what each layer is given and must answer; how they are taken is described in
  `common/probes/published.py` of Triptych, where the same numbers are published.

With ONNX Runtime and NumPy alone:

```python
import numpy, onnxruntime

given, expected, allowed = (dict(numpy.load(f"{{name}}.npz")) for name in ("given", "expected", "allowed"))
session = onnxruntime.InferenceSession("{MODEL}", providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
for name, found in zip(names, session.run(names, given)):
    right = found.shape == expected[name].shape
    right = right and (abs(found.astype(float) - expected[name]) <= allowed.get(name, 0)).all()
    if not right:
        raise SystemExit(f"{{name}} is the first layer that differs")
print(f"all {{len(names)}} layers are right")
```

Where layers cannot be cut apart, give each layer what it reads by hand: `given` where it has `LAYER/injected`,
`expected` where it has not.
"""
