"""Every network of the catalogue in all three implementations: the same names, shapes, weights, numbers and graph."""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import file_digest, sha256
from types import ModuleType

import numpy as np
import onnx
import pytest
from conftest import ALEXNETS, DEEPER, IMPLEMENTATIONS, WIDER, built, load_implementation, without_weights

from common import get_spec, list_architectures
from common.onnx.options import ExportOptions
from common.onnx.session import record as record_onnx
from common.operations import Dense
from common.parity.judge import judge, judge_structure
from common.parity.nearby import Earlier
from common.parity.verdicts import CERTIFIED, IDENTICAL, LayerVerdict, overall
from common.probes import Probe, exact_probe, random_probe
from common.specs.architecture import Architecture
from parity_tests.injection import WIDE, imported_with, release, specification, unchanged

ELSEWHERE = (
    *(("tf1_style_impl", name) for name in ("googlenet_tutorial", "alexnet_paper")),
    *(("keras_impl", name) for name in ("vgg11_bn", "resnet50_v1_5", "alexnet_owt")),
)
"""Of `WIDER` and `ALEXNETS`, those whose structure is examined every day in these too, without weights."""

IN_PATHS = ("vgg16_gap", "googlenet_bn", "densenet121")
"""Proved every day in test_paths.py; a ResNet-18 and small AlexNets are examined here in all three."""

NARROW_ONLY = ("vgg11", "vgg13", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn", "vgg19_gap")
"""Their wide dense layers are those of `vgg16` and `vgg16_gap`, which are examined whole too."""


@dataclass(frozen=True)
class Case:
    """A network, on a small image where it takes one."""

    architecture: str
    whole: bool = False
    """Whether with all the units of its wide dense layers, and on the paper's image, or narrow as its mutants are."""

    @property
    def spec(self) -> Architecture:
        return get_spec(self.architecture) if self.whole else specification(self.architecture)


def is_wide(name: str) -> bool:
    return Dense(WIDE) in [layer.operation for layer in get_spec(name).layers]


def cases() -> Iterator[pytest.param]:
    for name in list_architectures():
        quick = name not in (*DEEPER, *WIDER, *ALEXNETS, *IN_PATHS)
        yield pytest.param(Case(name), id=name, marks=[] if quick else [pytest.mark.slow])
        if name not in NARROW_ONLY and is_wide(name):
            yield pytest.param(Case(name, whole=True), id=f"{name} whole", marks=pytest.mark.slow)


@dataclass
class Judged:
    """What need not be judged twice: layers with the very same bits, exports with the very same bytes."""

    earlier: dict[str, Earlier] = field(default_factory=lambda: defaultdict(Earlier))
    exports: dict[tuple[str, bytes], str] = field(default_factory=dict)


@dataclass
class Examination:
    """What one implementation of one network does."""

    structure: list[LayerVerdict]
    came_back: bool = False
    verdicts: dict[str, str] = field(default_factory=dict)
    """By probe, for the model and for its export."""
    graph: bytes = b""
    """A digest of its export, but for the line that says which framework it is from."""


def structures() -> Iterator[pytest.param]:
    """All in PyTorch, where that takes no time, and one of each builder in Keras and in TensorFlow 1; those with wide
    dense layers too, since with weights they are narrow."""
    for name in list_architectures():
        for package in IMPLEMENTATIONS:
            chosen = package == "torch_impl" or (package, name) in ELSEWHERE
            if chosen or is_wide(name):
                yield pytest.param(name, package, id=f"{name}-{package}", marks=[] if chosen else pytest.mark.slow)


@pytest.mark.parametrize(("architecture", "package"), list(structures()))
def test_structure_is_the_specified_one(architecture, package):
    load_implementation(package)
    backend = importlib.import_module(f"{package}.backend")
    with without_weights(package):
        assert judge_structure(get_spec(architecture), *backend.structure(backend.build(architecture))) == []
    release(package)


@pytest.fixture(scope="module", params=cases())
def case(request):
    return request.param


@pytest.fixture(scope="module")
def examinations(case, tmp_path_factory):
    """All three implementations examined with the same probes, one after the other."""
    spec = case.spec
    batch = 1 if spec.multiply_adds > 5e8 else 3
    probes = {make.__name__: make(spec, seed=1, batch=batch) for make in (exact_probe, random_probe)}
    path = tmp_path_factory.mktemp("exports") / f"{case.architecture}.onnx"
    judged = Judged()
    return {name: examine(case, name, probes, path, judged) for name in IMPLEMENTATIONS}


@contextmanager
def implementation_of(case: Case, package: str) -> Iterator[ModuleType]:
    """The package, with narrow dense layers if the case is not whole."""
    implementation = load_implementation(package)
    if case.whole:
        yield implementation
        return
    with imported_with(unchanged(package, case.architecture)):
        yield importlib.import_module(package)


def examine(case, package, probes, path, judged) -> Examination:
    """Build, load, read back, record and export.

    The first implementation is exported with the weights of both probes, and both exports are run; of the others' one,
    it is enough that it is the same byte for byte.
    """
    spec = case.spec
    with implementation_of(case, package) as implementation:
        backend = importlib.import_module(f"{package}.backend")
        model = built(package, case.architecture, image_size=spec.input_shape[1:])
        found = Examination(judge_structure(spec, *backend.structure(model)))
        for name, probe in probes.items():
            implementation.load_weights(model, probe.weights)
            recorded = backend.record(model, probe.image, probe.injected)
            found.verdicts[name] = verdict(spec, probe, recorded, judged.earlier[name])
            if name == "exact_probe" and package != IMPLEMENTATIONS[0]:
                continue
            implementation.export_onnx(model, path, ExportOptions(tuple(spec.outputs), external_data=True))
            found.graph = digest(path)
            if (name, found.graph) not in judged.exports:
                recorded = record_onnx(path, probe.image, probe.injected)
                judged.exports[name, found.graph] = verdict(spec, probe, recorded, judged.earlier[name])
            found.verdicts[f"{name} of the export"] = judged.exports[name, found.graph]
        weights = implementation.read_weights(model)
        found.came_back = weights.keys() == probe.weights.keys() and all(
            np.array_equal(weights[name].view(np.uint32), array.view(np.uint32))
            for name, array in probe.weights.items()
        )
        del model
        release(package)
    return found


def verdict(spec, probe: Probe, recorded, earlier: Earlier) -> str:
    verdicts = judge(spec, probe, recorded, earlier)
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
def test_structure_is_as_specified_with_weights_too(examinations, package):
    assert examinations[package].structure == []


@pytest.mark.parametrize("package", IMPLEMENTATIONS)
def test_weights_come_back_bit_for_bit(examinations, package):
    assert examinations[package].came_back


@pytest.mark.parametrize("package", IMPLEMENTATIONS)
def test_every_layer_is_proved(examinations, package):
    expected = {"exact_probe": IDENTICAL, "random_probe": CERTIFIED, "random_probe of the export": CERTIFIED}
    if package == IMPLEMENTATIONS[0]:
        expected["exact_probe of the export"] = IDENTICAL
    assert examinations[package].verdicts == expected


def test_the_three_exports_are_the_same_graph(examinations):
    assert len({found.graph for found in examinations.values()}) == 1
