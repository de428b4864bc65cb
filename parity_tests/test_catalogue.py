"""Every network of the catalogue in all three implementations: the same names, shapes, weights, numbers and graph."""

from __future__ import annotations

import gc
import importlib
from dataclasses import dataclass, field
from hashlib import sha256

import onnx
import pytest
from conftest import IMPLEMENTATIONS, load_implementation

from common import get_spec, list_architectures
from common.onnx_graph import record as record_onnx
from common.parity.judge import CERTIFIED, IDENTICAL, LayerVerdict, judge, judge_structure, overall
from common.probes import Probe, exact_probe, random_probe

SMALL = (64, 96)
"""Height and width for the networks that take any size: small, not square."""

FULL_SIZE = None
STRUCTURE_ONLY = "structure only"

RUNS = {
    # The same builder with other depths, or minutes of arithmetic: built and compared layer by layer, but not run here.
    # `triptych parity` runs them all.
    **dict.fromkeys(("vgg13", "vgg16", "vgg19", "vgg19_gap"), STRUCTURE_ONLY),
    **dict.fromkeys(("resnet34", "resnet101", "resnet101_v1_5", "resnet152_v1_5"), STRUCTURE_ONLY),
    **dict.fromkeys(("resnet34_tutorial", "resnet101_tutorial", "resnet152_tutorial"), STRUCTURE_ONLY),
    **dict.fromkeys(("densenet169", "densenet201"), STRUCTURE_ONLY),
    # A flatten fixes the size of the image.
    **dict.fromkeys(("vgg11",), FULL_SIZE),
}


def image_size(architecture):
    """What a network is run on."""
    if architecture in RUNS:
        return RUNS[architecture]
    return SMALL if get_spec(architecture).family in ("resnet", "densenet", "vgg") else FULL_SIZE


@dataclass
class Examination:
    """What one implementation of one network does."""

    structure: list[LayerVerdict]
    came_back: bool = True
    verdicts: dict[str, str] = field(default_factory=dict)
    """By probe, for the model and for its export."""
    graph: bytes = b""
    """A digest of its export, but for the line that says which framework it is from."""


@pytest.fixture(scope="module", params=list_architectures())
def architecture(request):
    return request.param


@pytest.fixture(scope="module")
def examinations(architecture, tmp_path_factory):
    """All three implementations examined with the same probes, one after the other."""
    size = image_size(architecture)
    if size == STRUCTURE_ONLY:
        return {name: examine(architecture, name, None, {}, None, {}) for name in IMPLEMENTATIONS}
    spec = get_spec(architecture, image_size=size)
    batch = 1 if spec.multiply_adds > 5e8 else 3
    probes = {make.__name__: make(spec, seed=1, batch=batch) for make in (exact_probe, random_probe)}
    path = tmp_path_factory.mktemp("exports") / f"{architecture}.onnx"
    exports: dict[tuple[str, bytes], str] = {}
    return {name: examine(architecture, name, size, probes, path, exports) for name in IMPLEMENTATIONS}


def examine(architecture, package, size, probes, path, exports) -> Examination:
    """Build, load, read back, record and export. An export that was run before, byte for byte, is not run again."""
    implementation = load_implementation(package)
    backend = importlib.import_module(f"{package}.backend")
    spec = get_spec(architecture, image_size=size)
    model = implementation.build(architecture, image_size=size)
    found = Examination(judge_structure(spec, *backend.structure(model)))
    for name, probe in probes.items():
        implementation.load_weights(model, probe.weights)
        weights = implementation.read_weights(model)
        found.came_back &= weights.keys() == probe.weights.keys()
        found.came_back &= all(weights[key].tobytes() == probe.weights[key].tobytes() for key in weights)
        found.verdicts[name] = verdict(spec, probe, backend.record(model, probe.image, probe.injected))
        implementation.export_onnx(model, path, outputs=tuple(spec.outputs))
        found.graph = sha256(without_source(path)).digest()
        if (name, found.graph) not in exports:
            recorded = record_onnx(path, probe.image, probe.injected)
            exports[name, found.graph] = verdict(spec, probe, recorded)
        found.verdicts[f"{name} of the export"] = exports[name, found.graph]
        path.unlink()
    del model
    release(package)
    return found


def verdict(spec, probe: Probe, recorded) -> str:
    verdicts = judge(spec, probe, recorded)
    diverged = [v for v in verdicts if v.verdict not in (IDENTICAL, CERTIFIED)]
    return f"diverged: {diverged[0]}" if diverged else overall(verdicts, probe)


def without_source(path) -> bytes:
    """The file's content but for the line that says which framework it is from."""
    model = onnx.load(path)
    assert "source" in {entry.key for entry in model.metadata_props}
    kept = [entry for entry in model.metadata_props if entry.key != "source"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return model.SerializeToString(deterministic=True)


def release(package):
    """Give memory back: Keras keeps every model it has built, until it is told to forget them."""
    if package == "keras_impl":
        import keras

        keras.backend.clear_session()
    gc.collect()


@pytest.mark.parametrize("package", IMPLEMENTATIONS)
def test_structure_is_the_specified_one(examinations, package):
    assert examinations[package].structure == []


@pytest.mark.parametrize("package", IMPLEMENTATIONS)
def test_weights_come_back_bit_for_bit(examinations, package, architecture):
    if image_size(architecture) == STRUCTURE_ONLY:
        pytest.skip("not loaded here; triptych parity does")
    assert examinations[package].came_back


@pytest.mark.parametrize("package", IMPLEMENTATIONS)
def test_every_layer_is_proved(examinations, package, architecture):
    if image_size(architecture) == STRUCTURE_ONLY:
        pytest.skip("not run here; triptych parity does")
    assert examinations[package].verdicts == {
        "exact_probe": IDENTICAL,
        "exact_probe of the export": IDENTICAL,
        "random_probe": CERTIFIED,
        "random_probe of the export": CERTIFIED,
    }


def test_the_three_exports_are_the_same_graph(examinations, architecture):
    if image_size(architecture) == STRUCTURE_ONLY:
        pytest.skip("not exported here")
    assert len({found.graph for found in examinations.values()}) == 1
