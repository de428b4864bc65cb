"""How many single wrong numbers a probe sees: measured on real runs, for every parameter tensor.

`python -m parity_tests.sensitivity [NETWORK ...] [--probe exact|random|photo] [--framework torch|keras|tf1]` prints a
line for each network, and ends with status 1 if the exact probe has missed one.

In every unit (filter, neuron, channel) of every tensor one number is chosen at random and made wrong after the weights
are loaded: set to zero; changed by a 2^10th part of itself; its sign turned. Then the network is run, and each unit of
each layer is judged by itself as `triptych parity` judges the layer. What is wrong in one layer does not reach another,
since each is judged on what it was given; so one run tries one number in each unit of the network.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from common import get_spec, list_architectures
from common.implementations import FRAMEWORKS
from common.operations import evaluate
from common.operations.names import parameters_of
from common.parity.measures import LARGEST_ERRORS, UNIT, scaled_errors
from common.probes import Probe, make_probe
from common.specs.architecture import IMAGE, Architecture, Layer

FLOAT32 = LARGEST_ERRORS["fp32"]

DAMAGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "zero": np.zeros_like,
    "2^-10": lambda numbers: numbers * np.float32(1 + 2**-10),
    "sign": np.negative,
}
TOGETHER = (("weight", "gamma"), ("bias", "beta"), ("mean",), ("variance",))
"""Kinds of parameters that no layer has two of: they are damaged in one run."""


@dataclass(frozen=True)
class Tried:
    """How many of the numbers that were made wrong in a tensor were seen."""

    tensor: str
    damage: str
    tried: int
    seen: int


def sensitivity(architecture: str, package: str, probe: Probe, spec: Architecture | None = None) -> Iterator[Tried]:
    """Try one number in each unit of each tensor, with each damage.

    Args:
        architecture: a name of the catalogue.
        package: the implementation that is run.
        probe: of the network.
        spec: the network, if it is not on images of its usual size.
    """
    spec = spec or get_spec(architecture)
    implementation, backend = (importlib.import_module(name) for name in (package, f"{package}.backend"))
    model = implementation.build(architecture, image_size=spec.input_shape[1:])
    generator = np.random.default_rng(0)
    for damage, change in DAMAGES.items():
        for kinds in TOGETHER:
            weights, tensors = damaged(probe.weights, kinds, change, generator)
            if not tensors:
                continue
            implementation.load_weights(model, weights)
            recorded = backend.record(model, probe.image, probe.injected)
            for layer in spec.layers:
                if layer.name in tensors:
                    seen = units_seen(layer, probe, recorded)
                    yield Tried(tensors[layer.name], damage, len(seen), int(seen.sum()))


def damaged(
    weights: Mapping[str, np.ndarray],
    kinds: tuple[str, ...],
    change: Callable[[np.ndarray], np.ndarray],
    generator: np.random.Generator,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Weights with a wrong number in each unit of the tensors of some kinds, and these tensors by their layer."""
    found, tensors = dict(weights), {}
    for name, array in weights.items():
        layer, _, kind = name.rpartition("/")
        if kind in kinds:
            rows = array.reshape(len(array), -1).copy()
            units = np.arange(len(rows)), generator.integers(0, rows.shape[1], len(rows))
            rows[units] = change(rows[units])
            found[name], tensors[layer] = rows.reshape(array.shape), name
    return found, tensors


def units_seen(layer: Layer, probe: Probe, recorded: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of each unit of a layer, whether what was recorded of it gives it away."""
    output, name = recorded[layer.name], layer.name
    over = (0, *range(2, output.ndim))
    if name in probe.expected:
        return (output != probe.expected[name]).any(axis=over)
    given = {IMAGE: probe.image, **recorded, **probe.injected}
    reference = evaluate(layer.operation, [given[other] for other in layer.inputs], parameters_of(name, probe.weights))
    error = np.abs(output - reference.value)
    squares, counted = scaled_errors(error, reference.value.astype(np.float32), reference)
    return ~(error <= reference.bound).all(axis=over) | (np.sqrt(squares / np.maximum(counted, 1)) > UNIT * FLOAT32)


def summary(tried: list[Tried]) -> dict[str, tuple[int, int]]:
    """How many were seen, and of how many, by damage."""
    return {
        damage: (
            sum(each.seen for each in tried if each.damage == damage),
            sum(each.tried for each in tried if each.damage == damage),
        )
        for damage in DAMAGES
    }


def main() -> int:
    """Print how many were seen, and in which tensors some were not."""
    import torch  # noqa: F401, first: loaded after TensorFlow it can crash

    parser = argparse.ArgumentParser(prog="python -m parity_tests.sensitivity", description=__doc__.splitlines()[0])
    parser.add_argument("network", nargs="*", default=list_architectures())
    parser.add_argument("--probe", choices=("exact", "random", "photo"), default="exact")
    parser.add_argument("--framework", "--with", choices=FRAMEWORKS, default="torch")
    arguments = parser.parse_args()
    missed = 0
    for architecture in arguments.network:
        spec = get_spec(architecture)
        probe = make_probe(arguments.probe, spec, seed=0, batch=2, weights=None)
        tried = list(sensitivity(architecture, FRAMEWORKS[arguments.framework].package, probe))
        counts = ", ".join(f"{damage} {seen:,} of {of:,}" for damage, (seen, of) in summary(tried).items())
        tensors = {each.tensor for each in tried}
        print(f"{architecture}: {len(tensors)} tensors on the {arguments.probe} probe: {counts}", flush=True)
        blind = [each for each in tried if each.seen < each.tried]
        for each in blind[:20]:
            print(f"    {each.tensor}, {each.damage}: {each.seen:,} of {each.tried:,}")
        missed += len(blind)
    return 1 if missed and arguments.probe == "exact" else 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    sys.exit(main())
