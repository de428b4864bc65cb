"""Every network of the catalogue in all three implementations: the same names, shapes, weights, numbers and graph."""

from __future__ import annotations

import importlib
from collections import defaultdict
from dataclasses import dataclass, field
from hashlib import file_digest, sha256

import numpy as np
import onnx
import pytest
from conftest import IMPLEMENTATIONS, load_implementation, release

from common import get_spec, list_architectures
from common.onnx_graph import ExportOptions
from common.onnx_session import record as record_onnx
from common.parity.judge import CERTIFIED, IDENTICAL, LayerVerdict, Memory, judge, judge_structure, overall
from common.probes import Probe, exact_probe, random_probe

SMALL = (64, 96)
"""Height and width for the networks that take any size: small, not square."""

FULL_SIZE = None
NOT_RUN = "not run"

RUNS = {
    # The same builder with other depths, or minutes of arithmetic: built, loaded and exported, but not run here.
    # `triptych parity` runs them all.
    **dict.fromkeys(("vgg13", "vgg16", "vgg19", "vgg19_gap"), NOT_RUN),
    **dict.fromkeys(("resnet34", "resnet101", "resnet101_v1_5", "resnet152_v1_5"), NOT_RUN),
    **dict.fromkeys(("resnet34_tutorial", "resnet101_tutorial", "resnet152_tutorial"), NOT_RUN),
    **dict.fromkeys(("densenet169", "densenet201"), NOT_RUN),
    # A flatten fixes the size of the image.
    **dict.fromkeys(("vgg11",), FULL_SIZE),
}


@dataclass
class Judged:
    """What need not be judged twice: layers with the very same bits, exports with the very same bytes."""

    memories: dict[str, Memory] = field(default_factory=lambda: defaultdict(dict))
    exports: dict[tuple[str, bytes], str] = field(default_factory=dict)


def image_size(architecture):
    """What a network is run on."""
    if architecture in RUNS:
        return RUNS[architecture]
    return SMALL if get_spec(architecture).family in ("resnet", "densenet", "vgg") else FULL_SIZE


@dataclass
class Examination:
    """What one implementation of one network does."""

    structure: list[LayerVerdict]
    came_back: bool = False
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
    if size == NOT_RUN:
        size = None
        probes = {NOT_RUN: Probe(NOT_RUN, repeated_numbers(get_spec(architecture)), np.empty(0))}
    else:
        spec = get_spec(architecture, image_size=size)
        batch = 1 if spec.multiply_adds > 5e8 else 3
        probes = {make.__name__: make(spec, seed=1, batch=batch) for make in (exact_probe, random_probe)}
    path = tmp_path_factory.mktemp("exports") / f"{architecture}.onnx"
    judged = Judged()
    return {name: examine(architecture, name, size, probes, path, judged) for name in IMPLEMENTATIONS}


def repeated_numbers(spec):
    """Weights that are quickly made: a million random numbers over and over, never the same way twice."""
    numbers = np.random.default_rng(1).random(1_000_003, dtype=np.float32)
    return {
        name: np.resize(np.roll(numbers, 1009 * place), shape)
        for place, (name, shape) in enumerate(spec.parameter_shapes.items())
    }


def examine(architecture, package, size, probes, path, judged) -> Examination:
    """Build, load, read back, record and export.

    The first implementation is exported with the weights of both probes, and both exports are run; of the others' one,
    it is enough that it is the same byte for byte.
    """
    implementation = load_implementation(package)
    backend = importlib.import_module(f"{package}.backend")
    spec = get_spec(architecture, image_size=size)
    model = implementation.build(architecture, image_size=size)
    found = Examination(judge_structure(spec, *backend.structure(model)))
    for name, probe in probes.items():
        implementation.load_weights(model, probe.weights)
        if name != NOT_RUN:
            recorded = backend.record(model, probe.image, probe.injected)
            found.verdicts[name] = verdict(spec, probe, recorded, judged.memories[name])
        if name == "exact_probe" and package != IMPLEMENTATIONS[0]:
            continue
        implementation.export_onnx(model, path, ExportOptions(tuple(spec.outputs), external_data=True))
        found.graph = digest(path)
        if name != NOT_RUN:
            if (name, found.graph) not in judged.exports:
                recorded = record_onnx(path, probe.image, probe.injected)
                judged.exports[name, found.graph] = verdict(spec, probe, recorded, judged.memories[name])
            found.verdicts[f"{name} of the export"] = judged.exports[name, found.graph]
    weights = implementation.read_weights(model)
    found.came_back = weights.keys() == probe.weights.keys() and all(
        np.array_equal(weights[name].view(np.uint32), array.view(np.uint32)) for name, array in probe.weights.items()
    )
    del model
    release(package)
    return found


def verdict(spec, probe: Probe, recorded, memory: Memory) -> str:
    verdicts = judge(spec, probe, recorded, memory)
    diverged = [v for v in verdicts if v.verdict not in (IDENTICAL, CERTIFIED)]
    return f"diverged: {diverged[0]}" if diverged else overall(verdicts, probe)


def digest(path) -> bytes:
    """Of the graph and of the weights beside it, but for the line that says which framework they are from."""
    model = onnx.load(path, load_external_data=False)
    assert "source" in {entry.key for entry in model.metadata_props}
    kept = [entry for entry in model.metadata_props if entry.key != "source"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    with path.with_name(f"{path.name}.data").open("rb") as data:
        return sha256(model.SerializeToString(deterministic=True)).digest() + file_digest(data, "sha256").digest()


@pytest.mark.parametrize("package", IMPLEMENTATIONS)
def test_structure_is_the_specified_one(examinations, package):
    assert examinations[package].structure == []


@pytest.mark.parametrize("package", IMPLEMENTATIONS)
def test_weights_come_back_bit_for_bit(examinations, package):
    assert examinations[package].came_back


@pytest.mark.parametrize("package", IMPLEMENTATIONS)
def test_every_layer_is_proved(examinations, package, architecture):
    if image_size(architecture) == NOT_RUN:
        pytest.skip("not run here; triptych parity does")
    expected = {"exact_probe": IDENTICAL, "random_probe": CERTIFIED, "random_probe of the export": CERTIFIED}
    if package == IMPLEMENTATIONS[0]:
        expected["exact_probe of the export"] = IDENTICAL
    assert examinations[package].verdicts == expected


def test_the_three_exports_are_the_same_graph(examinations):
    assert len({found.graph for found in examinations.values()}) == 1
